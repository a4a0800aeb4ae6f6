"""When a volume makes a snapshot by itself, and which of these it keeps.

Of each of the last so many hours, days, weeks and months in which there is one, the newest is kept. It goes by the
snapshots that there are and never by the time that it is now: a clock that jumps deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bitdustfs.core.units import format_day

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Keeping:
    """How many snapshots that were made by themselves are kept, one of each period; all 0: none is made."""

    hourly: int
    daily: int
    weekly: int
    monthly: int

    def __str__(self) -> str:
        return f"{self.hourly}/{self.daily}/{self.weekly}/{self.monthly}"

    @property
    def _rules(self) -> tuple[tuple[int, Callable[[int], object]], ...]:
        return ((self.hourly, _hour), (self.daily, _day), (self.weekly, _week), (self.monthly, _month))


NONE_BY_ITSELF: Final = Keeping(0, 0, 0, 0)
# (tune) what nobody chose: what was deleted by mistake comes back as of any hour of the last day, and as of the ends
# of the last three months; what was deleted on purpose takes room at friends for three months at most
USUAL: Final = Keeping(hourly=24, daily=7, weekly=4, monthly=4)


def parse_keeping(text: str) -> Keeping | None:
    """Read what `str` of a Keeping wrote; None: it is something else."""
    parts = text.split("/")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        return None
    return Keeping(*map(int, parts))


def is_due(keeping: Keeping, last_ns: int | None, now_ns: int) -> bool:
    """Whether it is another hour (or day, …, if no hourly ones are kept) than when the last one was made.

    Args:
        last_ns: wall time of the one that was made last; None: there is none.
    """
    period = next((period for most, period in keeping._rules if most), None)
    return period is not None and (last_ns is None or period(_seconds(last_ns)) != period(_seconds(now_ns)))


def kept(keeping: Keeping, made_ns: Sequence[int]) -> frozenset[int]:
    """Which of the snapshots with these wall times are kept, by their places in the sequence.

    Args:
        made_ns: in the order in which they were made. Where the clock was wrong for a while that is not the order of
            the times: what was made last is the newest, so that one of a far future ends no later one.
    """
    stay: set[int] = set()
    newest_first = range(len(made_ns) - 1, -1, -1)
    for most, period in keeping._rules:
        seen: set[object] = set()
        for place in newest_first:
            key = period(_seconds(made_ns[place]))
            if key not in seen and len(seen) < most:
                seen.add(key)
                stay.add(place)
    return frozenset(stay)


def name_of(made_ns: int) -> str:
    """What a snapshot is called that nobody gave a name: its time, UTC."""
    time_s = _seconds(made_ns)
    return f"{format_day(time_s)}T{time_s // 3600 % 24:02d}.{time_s // 60 % 60:02d}.{time_s % 60:02d}Z"


def _seconds(wall_ns: int) -> int:
    return max(0, wall_ns // 1_000_000_000)


def _hour(time_s: int) -> int:
    return time_s // 3600


def _day(time_s: int) -> int:
    return time_s // _DAY_S


def _week(time_s: int) -> int:
    return (time_s // _DAY_S + 3) // 7  # the first of January 1970 was a Thursday, and weeks begin on Mondays


def _month(time_s: int) -> str:
    return format_day(time_s)[:7]
