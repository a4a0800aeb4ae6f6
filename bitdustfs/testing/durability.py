"""How often data is lost: the model on paper, and many lives under the policy of `core`.

The model (background notes on durability, "Markov"): of n fragments each is lost for good at rate 1/lifetime, and is
made again a time T after its supplier went. With i of n left the next is lost at rate i/lifetime, and one is back at
rate (n−i)/T. The volume is gone when fewer than k are left. All fragments lie with the same n suppliers, as
`core.placement` has it, so one stripe is the volume.

The lives decide nothing themselves: `core.standing` says what a supplier is, `core.grace` for how long it is waited
for, `core.placement` which code is used and who takes the place. Only what nature does is drawn: when a supplier goes
for good. Time goes from event to event.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Final

from bitdustfs.core import grace, placement, standing
from bitdustfs.core.grace import DAY_S, Patience
from bitdustfs.core.placement import Candidate
from bitdustfs.core.standing import Event, State
from bitdustfs.model import Code, OwnerId, SupplierNo

ROOM: Final = 1 << 40
MOMENT_S: Final = 0.001  # later than a sum of floats may come out too small
CERTAIN_95: Final = 1.96  # standard deviations


@dataclass(frozen=True, slots=True)
class Setting:
    """What a life is like. All in seconds.

    Attributes:
        suppliers: that are hired; as many stand ready as are ever needed.
    """

    suppliers: int
    lifetime_s: float  # mean; exponential
    patience: Patience
    rebuild_s: float
    span_s: float

    @property
    def code(self) -> Code:
        return placement.default_code(self.suppliers)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of many lives."""

    lives: int
    lost: int

    @property
    def share(self) -> float:
        return self.lost / self.lives


def predicted_loss(code: Code, *, lifetime_s: float, repair_s: float, span_s: float) -> float:
    """The chance that the volume is lost within a span, by the model."""
    back, expected_s, down_s = 1 / repair_s, 0.0, 0.0
    for left in range(code.n, code.k - 1, -1):  # down_s: the mean time from `left` to one less
        going = left / lifetime_s
        down_s = 1 / going + (code.n - left) * back / going * down_s
        expected_s += down_s
    return 1 - math.exp(-span_s / expected_s)


def interval(chance: float, lives: int) -> tuple[float, float]:
    """Where the share of losses lies in 95 of 100 experiments, if a life is lost with this chance (Wilson)."""
    z2 = CERTAIN_95**2
    middle = (chance + z2 / (2 * lives)) / (1 + z2 / lives)
    half = CERTAIN_95 * math.sqrt(chance * (1 - chance) / lives + z2 / (4 * lives * lives)) / (1 + z2 / lives)
    return max(0.0, middle - half), middle + half


def live_many(setting: Setting, *, lives: int, seed: int) -> Outcome:
    """Let many volumes live for the span."""
    dice = random.Random(seed)
    return Outcome(lives, sum(not _Life(setting, dice).survives() for _ in range(lives)))


class _Life:
    """One volume with one stripe, whose suppliers go one after another."""

    def __init__(self, setting: Setting, dice: random.Random) -> None:
        self._setting = setting
        self._dice = dice
        self._states: dict[SupplierNo, State] = {}
        self._went: dict[SupplierNo, float] = {}  # for good; nobody knows it yet
        self._held: dict[SupplierNo, bool] = {}  # of hired suppliers: whether its fragment is made already
        self._events: list[tuple[float, int, int]] = []  # (when, which of the below, supplier)
        self._last = 0
        self._looks_at = math.inf  # when somebody will be overdue next
        for _ in range(setting.suppliers):
            self._hire(0.0, rebuild_s=0.0)

    def survives(self) -> bool:
        """Live to the end, or to the loss."""
        while self._events:
            now, what, number = heapq.heappop(self._events)
            if now >= self._setting.span_s:
                return True
            supplier = SupplierNo(number)
            if what == _GOES and not self._go(now, supplier):
                return False
            if what == _MADE and supplier in self._held:
                self._held[supplier] = True
            if what == _LOOK and now >= self._looks_at:  # else it was put off meanwhile
                self._look(now)
        return True

    def _hire(self, now: float, *, rebuild_s: float) -> None:
        """Take on whom placement chooses; its fragment is there when it is made."""
        ready = [_candidate(self._last + 1), _candidate(self._last + 2)]
        taken = [_candidate(number) for number in self._held]
        (chosen,) = placement.choose(ready, 1, fragment_bytes=1, taken=taken)
        self._last = max(self._last, int(chosen))
        self._states[chosen] = standing.after(standing.after(State.CANDIDATE, Event.HIRE), Event.ANSWER)
        self._held[chosen] = rebuild_s == 0
        goes = now + self._dice.expovariate(1 / self._setting.lifetime_s)
        heapq.heappush(self._events, (goes, _GOES, int(chosen)))
        if rebuild_s:
            heapq.heappush(self._events, (now + rebuild_s, _MADE, int(chosen)))

    def _go(self, now: float, supplier: SupplierNo) -> bool:
        """A supplier goes for good, with what it has. False: that was one too many."""
        self._went[supplier] = now
        for event in (Event.SILENCE, Event.ABSENCE):
            self._states[supplier] = standing.after(self._states[supplier], event)
        left = sum(made and number not in self._went for number, made in self._held.items())
        self._look(now)
        return left >= self._setting.code.k

    def _look(self, now: float) -> None:
        """What the monitor does: who was away for too long is given up, and somebody hired in its place."""
        away_s = {number: now - went for number, went in self._went.items() if self._is(number, State.OFFLINE)}
        counted = sum(self._held.values()) - self._setting.code.k
        spare = counted - sum(self._held[number] for number in away_s)
        waits_s = grace.waits_s(self._setting.patience, spare, dict.fromkeys(away_s, 0.0))
        for number in grace.overdue(away_s, waits_s):
            self._states[number] = standing.after(self._states[number], Event.PATIENCE_ENDS)
            del self._held[number]
            self._hire(now, rebuild_s=self._setting.rebuild_s)
        still = [number for number in away_s if self._is(number, State.OFFLINE)]
        due = min((self._went[number] + waits_s[number] for number in still), default=math.inf)
        if self._looks_at != due < math.inf:
            heapq.heappush(self._events, (due + MOMENT_S, _LOOK, 0))
        self._looks_at = due

    def _is(self, number: SupplierNo, state: State) -> bool:
        return self._states[number] is state


_GOES, _MADE, _LOOK = range(3)


@cache
def _candidate(number: int) -> Candidate:
    owner = OwnerId(number.to_bytes(32, "big"))
    return Candidate(SupplierNo(number), owner, f"10.{number >> 8}.{number & 255}", ROOM, ROOM)


def days(count: float) -> float:
    """So many days, in seconds."""
    return count * DAY_S
