"""Endings: until when an owner may count on what he stores with another, by what they agreed. Pure.

A supplier takes nothing new from the end of a contract on, and may erase what it has GRACE_S after it, to make room.
So what is there is brought to others from LEAD_S before the end on, counts as held until the grace is over, and not
a moment longer, whether it is still there or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitdustfs.core.contract import Contract, Party
from bitdustfs.core.grace import GRACE_S, NOTICE_S
from bitdustfs.model import NodeId, OwnerId

LEAD_S: Final = NOTICE_S  # (tune) a month to bring everything elsewhere; an end with notice is never further away


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of what an owner may store on one node. Wall seconds."""

    at_s: int  # from then on it takes nothing new

    @property
    def yields_s(self) -> int:
        """From then on it may erase what is there."""
        return self.at_s + GRACE_S

    def is_near(self, now_s: int) -> bool:
        """Say whether it is time to bring what is there to others."""
        return now_s >= self.at_s - LEAD_S

    def is_past(self, now_s: int) -> bool:
        """Say whether nothing new is taken any more."""
        return now_s >= self.at_s

    def may_yield(self, now_s: int) -> bool:
        """Say whether nothing that is there can be counted on."""
        return now_s >= self.yields_s


def ending(contracts: Sequence[Contract], own: OwnerId, shelf: NodeId) -> Ending | None:
    """When `own` may store nothing on the node `shelf` any more; None: no end is known.

    Args:
        contracts: those that hold or will, by serial, and behind them a notice that only one side has signed. Some.
            A gap between two that is shorter than the grace is no end.
    """
    end_s: int | None = None
    for number, each in enumerate(contracts):
        since_s = each.terms.since_s
        stops = [later.terms.since_s for later in contracts[number + 1 :]]
        if each.terms.until_s:
            stops.append(each.terms.until_s)
        stop_s = min(stops, default=None)
        if not _grants(each, own, shelf) or (stop_s is not None and stop_s <= since_s):
            continue
        if end_s is not None and since_s - end_s > GRACE_S:
            break
        if stop_s is None:
            return None
        end_s = stop_s
    return Ending(contracts[0].terms.since_s if end_s is None else end_s)


def shelf_for(contracts: Sequence[Contract], own: OwnerId) -> Party | None:
    """What is given to `own` by the newest of these contracts, and where; None: nothing."""
    terms = contracts[-1].terms
    giver = terms.second if terms.first.owner == own else terms.first
    return giver if giver.gives_bytes else None


def _grants(each: Contract, own: OwnerId, shelf: NodeId) -> bool:
    terms = each.terms
    giver = terms.second if terms.first.owner == own else terms.first
    return giver.owner != own and giver.gives_bytes > 0 and giver.shelf == shelf
