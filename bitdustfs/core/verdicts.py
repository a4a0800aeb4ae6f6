"""Verdicts: what was decided about suppliers, read back: whose place is free, and what it says to a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitdustfs.core.units import format_eta, format_size
from bitdustfs.model import Rule, Standing, Supplier, SupplierNo, Verdict

_GONE = frozenset({Rule.SILENCE, Rule.EMPTY, Rule.FIRE, Rule.YIELD})


def unfilled(
    verdicts: Iterable[Verdict], suppliers: Iterable[Supplier], fruitless: Iterable[SupplierNo] = ()
) -> list[SupplierNo]:
    """Those who went, and in whose place nobody was hired yet, the first who went first.

    Args:
        verdicts: the oldest first.
        fruitless: who is there, and takes nothing; they come last.
    """
    gone: dict[SupplierNo, None] = {}
    filled = set[SupplierNo]()
    for each in verdicts:
        if each.rule in _GONE:
            filled.discard(each.supplier)
            gone.pop(each.supplier, None)
            gone[each.supplier] = None
        elif each.rule is Rule.REPLACEMENT:
            filled.add(each.instead)
        else:
            gone.pop(each.supplier, None)
    away = {row.supplier for row in suppliers if row.is_lost or row.standing is Standing.FIRED}
    places = [supplier for supplier in gone if supplier in away]
    return [supplier for supplier in (*places, *fruitless) if supplier not in filled]


def reason(verdict: Verdict, labels: Mapping[SupplierNo, str]) -> str:
    """Say why something was decided, as the end of a sentence that began with the supplier's label.

    Args:
        labels: of all suppliers.
    """
    match verdict.rule:
        case Rule.SILENCE:
            habit = (
                f"; its longest absence of the last 30 days was {format_eta(verdict.longest_s)}"
                if verdict.longest_s and verdict.spare >= 1
                else ""
            )
            return (
                f"was lost: silent for {format_eta(verdict.away_s)}, and with {_fragments(verdict.spare)} to spare "
                f"we wait for {format_eta(verdict.wait_s)}{habit}; it held {_much(verdict)}"
            )
        case Rule.RETURN:
            return (
                f"came back after {format_eta(verdict.away_s)}: what it shows of {_much(verdict)} counts again"
                if verdict.fragments
                else f"came back after {format_eta(verdict.away_s)}"
            )
        case Rule.REPLACEMENT:
            place = f" in the place of {labels.get(verdict.instead, '?')}" if verdict.instead else ""
            few = "1 supplier was" if verdict.missing == 1 else f"{verdict.missing} suppliers were"
            return f"was hired{place}: {few} missing for the fragments of the blocks that there are"
        case Rule.HIRE:
            return "was hired by you"
        case Rule.LEAVE:
            return f"began to leave, as you asked: {_much(verdict)} are brought to others"
        case Rule.EMPTY:
            return "was given up: others hold what it held"
        case Rule.FIRE:
            return f"was given up, as you asked; it held {_much(verdict)}"
        case Rule.END:
            return f"began to leave, as its contract ends: {_much(verdict)} are brought to others"
        case Rule.YIELD:
            return f"may have erased {_much(verdict)}, as its contract ended, or another machine is in its place"
        case Rule.RENEWAL:
            return "stays, as its contract goes on"


def last_departures(verdicts: Sequence[Verdict]) -> dict[SupplierNo, Verdict]:
    """The newest verdict by which each supplier's fragments stopped to count."""
    return {each.supplier: each for each in verdicts if each.rule in _GONE}


def _much(verdict: Verdict) -> str:
    return f"{_fragments(verdict.fragments)} ({format_size(verdict.bytes)})"


def _fragments(count: int) -> str:
    return "1 fragment" if count == 1 else f"{count} fragments"
