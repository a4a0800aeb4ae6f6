"""Grace: how long a supplier may stay away before what it holds is made again elsewhere.

Laptops sleep, people travel, and making a fragment again costs k times its length of traffic: so waiting is cheap
while there is a margin, and dear when there is none. Absences are counted in seconds during which *we* were there to
see them: a machine that slept or had no network itself has seen nothing, whatever the clock on the wall says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bitdustfs.model import Absence, SupplierNo

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
NOTICE_S: Final = 30 * DAY_S  # (tune) of a contract: a month to bring everything elsewhere. Part of the protocol
GRACE_S: Final = 30 * DAY_S  # (tune) after a contract's end, for who was away
MEMORY_DAYS: Final = 30  # longer ago says little about a supplier's habits
AT_EASE: Final = 2  # fragments to spare: more of them do not make us wait longer
HABIT: Final = 1.5  # times its longest absence: who goes away on Friday comes back on Monday
MOST_MISSED_TICKS: Final = 2.0  # a longer gap between two looks was not spent looking


@dataclass(frozen=True, slots=True)
class Patience:
    """How long we wait, by what would be left. Seconds; (tune).

    `config` may replace all three with one number; a practice swarm does.
    """

    at_none_s: float = 6 * HOUR_S  # no fragment could be spared any more
    at_one_s: float = DAY_S  # one
    else_s: float = 3 * DAY_S

    @property
    def least_s(self) -> float:
        """Nobody is given up before."""
        return min(self.at_none_s, self.at_one_s, self.else_s)

    @classmethod
    def of(cls, seconds: float) -> Patience:
        """The same patience, whatever is left."""
        return cls(seconds, seconds, seconds)


def grace_s(patience: Patience, spare: int, longest_s: float) -> float:
    """How long this supplier may stay away.

    Args:
        spare: held fragments minus k of the worst block, without the suppliers that do not answer.
        longest_s: its longest absence of the last MEMORY_DAYS.
    """
    if spare < 1:
        return patience.at_none_s
    wanted = patience.at_one_s if spare == 1 else patience.else_s
    return max(wanted, HABIT * longest_s)


def waits_s(patience: Patience, spare: int, habits_s: Mapping[SupplierNo, float]) -> dict[SupplierNo, float]:
    """How long each of the suppliers that do not answer may stay away.

    Args:
        spare: as for `grace_s`.
        habits_s: the longest absence of each.
    """
    return {supplier: grace_s(patience, spare, habit_s) for supplier, habit_s in habits_s.items()}


def overdue(away_s: Mapping[SupplierNo, float], waits_s: Mapping[SupplierNo, float]) -> frozenset[SupplierNo]:
    """Those who are given up now."""
    return frozenset(supplier for supplier, away in away_s.items() if away >= waits_s[supplier])


def longest_s(absences: Iterable[Absence], now_ns: int) -> float:
    """The longest absence that still says something, in seconds: what of it may lie in the last MEMORY_DAYS."""
    oldest = now_ns - MEMORY_DAYS * DAY_S * 10**9
    return max((0.0, *(min(each.length_s, (each.ended_ns - oldest) / 1e9) for each in absences)))


def seen_s(elapsed_s: float, tick_s: float) -> float:
    """How much of the time between two looks was spent looking: a machine that slept saw nothing."""
    return elapsed_s if elapsed_s <= MOST_MISSED_TICKS * tick_s else tick_s


def are_we_the_ones(answering: int, expected: int) -> bool:
    """Say whether it is more likely that we are cut off than that so many suppliers are away.

    Args:
        answering, expected: of suppliers that are not lost.
    """
    return answering * 2 < expected
