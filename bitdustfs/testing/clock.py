"""A wall clock that stands still until it is moved, and work that runs inline.

Deadlines need no fake: trio's own MockClock moves them. With a real worker thread a clock that jumps would leap while
the thread works, so under a MockClock work runs inline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

SOME_DAY_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00 UTC


class FakeWall:
    """A ports.Wall. `step_ns`: how much it moves each time somebody looks, so that times differ."""

    def __init__(self, now_ns: int = SOME_DAY_NS, *, step_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._step_ns = step_ns
        self._slept_s = 0.0

    def now_ns(self) -> int:
        self._now_ns += self._step_ns
        return self._now_ns

    def awake_s(self) -> float:
        """As trio's clock, which stops in suspend, and the suspends."""
        try:
            return trio.current_time() + self._slept_s
        except RuntimeError:
            return self._slept_s

    def move_s(self, seconds: float) -> None:
        """Let wall time jump; negative: backwards."""
        self._now_ns += int(seconds * 1_000_000_000)

    def suspend_s(self, seconds: float) -> None:
        """Have slept so long: deadlines did not move meanwhile."""
        self._slept_s += seconds
        self.move_s(seconds)


class RunningWall(FakeWall):
    """A ports.Wall that goes on with trio's clock, and jumps when told to."""

    def now_ns(self) -> int:
        return super().now_ns() + int(trio.current_time() * 1_000_000_000)


class InlineCrunch:
    """A ports.Crunch that works on the loop."""

    threads = 1

    async def run(self, work: Callable[..., T], *args: object) -> T:
        await trio.lowlevel.checkpoint()
        return work(*args)


class InstantCrunch:
    """A ports.Crunch that works on the loop and lets nobody else run: for what is called a million times."""

    threads = 1

    async def run(self, work: Callable[..., T], *args: object) -> T:
        return work(*args)
