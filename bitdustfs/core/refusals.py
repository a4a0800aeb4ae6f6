"""Refusals: when a fragment that a supplier neither gives nor denies is as good as lost.

A disk with a bad sector, a shelf behind a bug, a supplier that answers nonsense: each is there, and never gives the
fragment. One such answer proves nothing, for a disk may be busy or unplugged for an hour. The same answer again and
again, over more than a day, is no better than a denial, and waiting longer only costs the margin.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from bitdustfs.core.grace import DAY_S

ENOUGH_TIMES: Final = 4  # (tune) so many in a row
ENOUGH_S: Final = DAY_S  # (tune) and so long since the first: the same disk is not unplugged all day
REMEMBERED: Final = 4096
FORGOTTEN_S: Final = 7 * DAY_S  # (tune) after the last time: it was let go meanwhile, or its supplier was
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Refused:
    since: float
    last: float
    times: int = 0


class Refusals(Generic[K]):
    """What was refused in a row. Holds at most REMEMBERED.

    Where there is more, as at a disk that gives nothing at all, each newcomer takes the place of the one before it,
    and not of the oldest: else, asked for one after the other, all of them would be forgotten before their next time.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[K, _Refused] = OrderedDict()  # in the order of their last times
        self._newcomer: K | None = None  # the last one that was refused for the first time

    def __len__(self) -> int:
        return len(self._known)

    def note(self, what: K, now: float) -> bool:
        """It was refused once more, at `now` seconds. Says whether it is as good as lost; then it is forgotten."""
        if what not in self._known:
            self._make_room(now)
            self._newcomer = what
        known = self._known.setdefault(what, _Refused(now, now))
        known.times, known.last = known.times + 1, now
        self._known.move_to_end(what)
        if known.times >= ENOUGH_TIMES and now - known.since >= ENOUGH_S:
            del self._known[what]
            return True
        return False

    def times(self, what: K) -> int:
        """How often it was refused in a row, as far as that is remembered."""
        known = self._known.get(what)
        return known.times if known is not None else 0

    def clear(self, what: K) -> None:
        """It was given."""
        self._known.pop(what, None)

    def _make_room(self, now: float) -> None:
        if len(self._known) < REMEMBERED:
            return
        victim, oldest = self._newcomer, next(iter(self._known))
        if victim is None or victim not in self._known or now - self._known[oldest].last >= FORGOTTEN_S:
            victim = oldest
        del self._known[victim]
