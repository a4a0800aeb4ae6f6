"""The forecast: what the rebuilder would do now, and why; and what was decided about suppliers.

    blocks that lack fragments, the most urgent first -> the same plan that the rebuilder makes, on paper
    rows of what they lack -> proof, silence, or never sent -> the verdict that made it so

Nothing is changed and nobody is asked. Without a planner (an unmounted home) only the catalog speaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import trio

from bitdustfs.core import erasure
from bitdustfs.core.placement import Candidate
from bitdustfs.core.report import (
    BlockReport,
    LackReport,
    ReasonReport,
    RebuildReport,
    TakerReport,
    VerdictReport,
)
from bitdustfs.core.verdicts import last_departures, reason
from bitdustfs.model import BlockNo, BlockRow, FragmentRow, FragmentState, Supplier, SupplierNo, Verdict, Wanting
from bitdustfs.ports import Catalog

PAGE: Final = 16  # blocks looked at before others get a turn: some milliseconds
EXAMPLES: Final = 20  # blocks told of one by one
_SECOND_NS: Final = 1_000_000_000
_WORDS: Final = {  # the strongest first
    FragmentState.LOST: "proof",
    FragmentState.ABSENT: "silence",
    FragmentState.WANTED: "unsent",
}


class Planner(Protocol):
    """What is needed of the rebuilder."""

    @property
    def bytes_per_s(self) -> float:
        """How fast it went so far; 0: not known."""
        ...

    def takers(self) -> Mapping[SupplierNo, Candidate]:
        """Who may take something now."""
        ...

    def plan(
        self, block: BlockRow, takers: Mapping[SupplierNo, Candidate] | None = None
    ) -> Sequence[tuple[int, Supplier]]:
        """Which fragment could go to whom."""
        ...


@dataclass(slots=True)
class _Sum:
    blocks: int = 0
    fragments: int = 0
    possible: int = 0
    send_bytes: int = 0
    fetch_bytes: int = 0
    here: int = 0
    hopeless: int = 0
    reasons: Counter[tuple[str, SupplierNo]] = field(default_factory=Counter)
    fragments_to: Counter[str] = field(default_factory=Counter)
    bytes_to: Counter[str] = field(default_factory=Counter)
    worst: list[BlockReport] = field(default_factory=list)


class Forecast:
    """Answers `rebuild --dry-run`.

    Args:
        planner: None: nothing is mounted, and nobody could take anything.
        reachable: the suppliers that answer.
        is_here: whether all of a block is on this machine.
        limit_bytes_s: of the line, by our own limit; inf: none.
        speed_of: the best speed seen of a supplier, in bytes a second; 0: none.
        held_up: sentences that say why it does not go on, or goes slowly.
        refusing: who takes nothing now, whatever room there is; `held_up` says why.
    """

    def __init__(
        self,
        catalog: Catalog,
        planner: Planner | None = None,
        *,
        reachable: Callable[[], Set[SupplierNo]] = frozenset,
        is_here: Callable[[BlockRow], bool] = lambda _block: False,
        limit_bytes_s: Callable[[], float] = lambda: float("inf"),
        speed_of: Callable[[SupplierNo], float] = lambda _supplier: 0.0,
        held_up: Callable[[], list[str]] = list,
        refusing: Callable[[], Sequence[Supplier]] = tuple,
    ) -> None:
        self._catalog = catalog
        self._planner = planner
        self._reachable = reachable
        self._is_here = is_here
        self._limit_bytes_s = limit_bytes_s
        self._speed_of = speed_of
        self._held_up = held_up
        self._refusing = refusing

    async def rebuild(self) -> RebuildReport:
        """What would be rebuilt now."""
        labels = {row.supplier: row.label for row in self._catalog.suppliers()}
        verdicts = self._catalog.verdicts()
        takers = dict(self._planner.takers()) if self._planner is not None else {}
        for row in self._refusing():
            takers.pop(row.supplier, None)
        answering, found = set(takers), _Sum()
        at: Wanting | None = None
        while page := self._catalog.wanting_blocks(PAGE, at):
            at = page[-1]
            for wanting in page:
                block = self._catalog.block(wanting.block)
                if block is not None:
                    self._count(found, block, takers, labels)
            await trio.lowlevel.checkpoint()
        speed = self._speed(answering)
        return RebuildReport(
            mounted=self._planner is not None,
            blocks=found.blocks,
            fragments=found.fragments,
            possible=found.possible,
            send_bytes=found.send_bytes,
            fetch_bytes=found.fetch_bytes,
            blocks_here=found.here,
            hopeless=found.hopeless,
            bytes_per_s=speed,
            eta_s=-1 if not speed and found.send_bytes else round(found.send_bytes / speed) if speed else 0,
            held_up=self._obstacles(found, answering),
            reasons=self._reasons(found, verdicts, labels),
            takers=[
                TakerReport(label=label, fragments=count, bytes=found.bytes_to[label])
                for label, count in sorted(found.fragments_to.items())
            ],
            worst=found.worst,
            verdicts=[_told(each, labels) for each in verdicts],
        )

    # -- private -----------------------------------------------------------------------------------------------

    def _count(
        self,
        found: _Sum,
        block: BlockRow,
        takers: dict[SupplierNo, Candidate],
        labels: Mapping[SupplierNo, str],
    ) -> None:
        rows = self._catalog.fragments(block.block)
        held = {row.index for row in rows if row.state is FragmentState.HELD}
        lacking = [index for index in range(block.code.n) if index not in held]
        if not lacking:
            return
        length = erasure.fragment_length(block.length, block.code.k)
        is_here, is_hopeless = self._is_here(block), len(held) < block.code.k
        targets: dict[int, Supplier] = {}
        if self._planner is not None and (is_here or not is_hopeless):
            targets = dict(self._planner.plan(block, takers))
        for target in targets.values():  # their room shrinks as it would
            room = takers[target.supplier]
            takers[target.supplier] = replace(
                room, free_bytes=room.free_bytes - length, free_fragments=room.free_fragments - 1
            )
            found.fragments_to[target.label] += 1
            found.bytes_to[target.label] += length
        found.blocks += 1
        found.fragments += len(lacking)
        found.possible += len(targets)
        found.send_bytes += len(targets) * length
        found.fetch_bytes += block.code.k * length if targets and not is_here else 0
        found.here += is_here
        found.hopeless += is_hopeless and not is_here
        lacks = []
        for index in lacking:
            why, whose = _why(rows, index)
            found.reasons[why, whose] += 1
            to = targets[index].label if index in targets else ""
            lacks.append(LackReport(index=index, why=why, whose=labels.get(whose, ""), to=to))
        if len(found.worst) < EXAMPLES:
            found.worst.append(self._block(block, rows, len(held), length, lacks, labels, is_here=is_here))

    def _block(
        self,
        block: BlockRow,
        rows: Sequence[FragmentRow],
        held: int,
        length: int,
        lacks: list[LackReport],
        labels: Mapping[SupplierNo, str],
        *,
        is_here: bool,
    ) -> BlockReport:
        reachable = self._reachable()
        sources = {row.supplier for row in rows if row.state is FragmentState.HELD and row.supplier in reachable}
        return BlockReport(
            block=int(BlockNo(block.block)),
            held=held,
            needed=block.code.k,
            wanted=block.code.n,
            bytes=length,
            sources=sorted(labels.get(supplier, "?") for supplier in sources),
            is_here=is_here,
            lacks=lacks,
        )

    def _speed(self, answering: Set[SupplierNo]) -> float:
        """Bytes a second: what was measured, else the fastest line of those who could take something."""
        if self._planner is None:
            return 0.0
        limit = self._limit_bytes_s()
        seen = self._planner.bytes_per_s or max((self._speed_of(each) for each in answering), default=0.0)
        return min(seen, limit) if seen else limit if limit != float("inf") else 0.0

    def _obstacles(self, found: _Sum, answering: Set[SupplierNo]) -> list[str]:
        told = list(self._held_up())
        if self._planner is None or not found.fragments:
            return told
        if not answering and not self._refusing():
            told.append("no hired supplier answers and has room")
        elif found.possible < found.fragments:
            told.append(
                f"{found.fragments - found.possible} fragments nobody can take now: each goes to a supplier that "
                "answers, has room and holds no other of its block; `bitdustfs hire` takes on another one"
            )
        if found.hopeless:
            told.append(
                f"{found.hopeless} blocks have too few fragments to be made again: they wait for their suppliers"
            )
        return told

    def _reasons(
        self, found: _Sum, verdicts: Sequence[Verdict], labels: Mapping[SupplierNo, str]
    ) -> list[ReasonReport]:
        left = last_departures(verdicts)
        return [
            ReasonReport(
                why=why,
                whose=labels.get(whose, ""),
                since_s=left[whose].at_ns // _SECOND_NS if why == "silence" and whose in left else 0,
                fragments=count,
            )
            for (why, whose), count in found.reasons.most_common()
        ]


def _why(rows: Sequence[FragmentRow], index: int) -> tuple[str, SupplierNo]:
    """Why nobody holds a fragment, and who had it, or was to get it."""
    known = {row.state: row.supplier for row in rows if row.index == index}
    for state, word in _WORDS.items():
        if state in known:
            return word, known[state]
    return "none", SupplierNo(0)


def _told(verdict: Verdict, labels: Mapping[SupplierNo, str]) -> VerdictReport:
    label = labels.get(verdict.supplier, "?")
    return VerdictReport(
        at_s=verdict.at_ns // _SECOND_NS,
        label=label,
        rule=verdict.rule.name.lower(),
        says=f"{label} {reason(verdict, labels)}",
        away_s=verdict.away_s,
        wait_s=verdict.wait_s,
        longest_s=verdict.longest_s,
        spare=verdict.spare,
        missing=verdict.missing,
        instead=labels.get(verdict.instead, "") if verdict.instead else "",
        fragments=verdict.fragments,
        bytes=verdict.bytes,
    )
