"""The turn: which of pyfuse3's tasks reads the kernel's next request.

pyfuse3 keeps a few tasks. One waits for a request while the others queue at a lock, and it hands the lock to the next
one *before* it answers, for an answer may wait. Ours hardly ever do: then the one that was woken finds nothing to
read yet, and half of all passes of trio's loop were made for that. Here the turn is only laid down. Whoever comes
back for the next request without having waited takes it up again; if its step ends without that, another is woken.

pyfuse3 takes its lock from what its own name `trio` stands for, which its asyncio mode replaces as well; see
`pyfuse3/asyncio.py` and `_wait_fuse_readable` in `pyfuse3/internal.pxi`.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from types import ModuleType, TracebackType
from typing import Any

import trio

from bitdustfs.edges.fuse_greeting import Greeting

LOOKS = 40  # (tune) awake, 30 us in all: whoever was answered mostly asks again within them
LINGER_S = 0.00005  # (tune) of the loop, asleep; a pass of it costs about as much, of the processor
PASS_EVERY_S = 0.002  # (tune) all other tasks wait that long at most while requests come one after another
RUSH_S = 0.05  # (tune) after a request of a rush: more are probably coming
RUSH_REQUESTS = 32  # (tune) within RUSH_S: more than who looks from time to time makes, less than any program at work
VAIN_MOST = 8  # (tune) lingering that often is left out after it was in vain
_SELECTABLE = 1024  # FD_SETSIZE


class Turn(trio.abc.Instrument):
    """A lock that nobody is woken for while its last holder may come back within the same step."""

    def __init__(self) -> None:
        self._is_held = False
        self._is_waking = False  # somebody was woken, and has not run yet
        self._waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._wait()
        self._is_held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_held = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Wake who waits, if the turn was laid down and not taken up again."""
        if not self._is_held and self._waiting and not self._is_waking:
            self._is_waking = True
            trio.lowlevel.reschedule(self._waiting.popleft())

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()
        self._waiting.append(task)

        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        self._is_waking = False


class Rush:
    """Whether somebody makes one request after another right now, and so waits for each answer of ours.

    Args:
        now_s: seconds from anywhere.
    """

    def __init__(self, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = now_s
        self._began_at = -inf  # of those that are counted
        self._count = 0
        self._last_at = -inf  # of a rush

    def came(self, at_s: float) -> None:
        """A request came right after an answer."""
        if at_s - self._began_at > RUSH_S:
            self._began_at, self._count = at_s, 0
        self._count += 1
        if self._count >= RUSH_REQUESTS:
            self._last_at = at_s

    def is_on(self) -> bool:
        """Whether there is one."""
        return self._now_s() - self._last_at < RUSH_S


class Waiting:
    """How the task that has the turn waits for the next request.

    A pass of trio's loop costs more than most answers. Whoever was answered mostly asks again within microseconds:
    so we linger that long before the loop has its pass; but not for longer than `PASS_EVERY_S` without one, and not
    for a while after it was for nothing. First awake, for on a virtual machine a processor that fell asleep takes
    longer to wake up than the answer took; then asleep. With one processor whoever asks needs ours: only asleep.

    Args:
        greet: makes the exchange in which libfuse is to read its first request, from a descriptor.
        now_s: the clock by which the loop has its passes, seconds from anywhere.
        is_readable: says whether a descriptor is, or becomes it within so many seconds.
        looks: how often it is looked at, awake.
        rush: is told, by the same clock, of each request that came at once.
    """

    def __init__(
        self,
        greet: Callable[[int], Greeting] | None = None,
        now_s: Callable[[], float] = time.perf_counter,
        *,
        is_readable: Callable[[int, float], bool] | None = None,
        looks: int | None = None,
        rush: Rush | None = None,
    ) -> None:
        self._greet = greet
        self._now_s = now_s
        self._is_readable = is_readable or _is_readable
        self._looks = looks if looks is not None else looks_of(len(os.sched_getaffinity(0)))
        self._rush = rush or Rush()
        self._greeting: Greeting | None = None
        self._pass_at = 0.0  # when the loop had its last pass, by now_s
        self._vain = 0  # so many times we do not linger

    async def wait_readable(self, descriptor: int) -> None:
        """Return when there is a request to read."""
        if self._greeting is not None:  # pyfuse3 reads one request after another until it has answered this one
            self._greeting.finish()
            self._greeting = None
        elif self._greet is not None:
            await trio.lowlevel.wait_readable(descriptor)
            greeting, self._greet = self._greet(descriptor), None
            self._greeting = greeting if greeting.begin() else None
            return
        now_s = self._now_s()
        if now_s - self._pass_at < PASS_EVERY_S and self._comes(descriptor):
            self._rush.came(now_s)
            return
        await trio.lowlevel.wait_readable(descriptor)
        self._pass_at = self._now_s()

    def close(self) -> None:
        """The main loop ended, maybe before its first request."""
        if self._greeting is not None:
            self._greeting.close()

    def _comes(self, descriptor: int) -> bool:
        if descriptor >= _SELECTABLE:
            return False
        linger = not self._vain
        for _ in range(self._looks if linger else 1):
            if self._is_readable(descriptor, 0):
                self._vain = 0
                return True
        if linger and self._is_readable(descriptor, LINGER_S):
            return True
        self._vain = VAIN_MOST if linger else self._vain - 1
        return False


def looks_of(processors: int) -> int:
    """How often to look while awake, where we may use so many processors."""
    return LOOKS if processors > 1 else 1


def _is_readable(descriptor: int, wait_s: float) -> bool:
    return bool(select.select((descriptor,), (), (), wait_s)[0])


class _Lowlevel:
    """trio.lowlevel, but for how one waits for a descriptor."""

    def __init__(self, waiting: Waiting) -> None:
        self.wait_readable = waiting.wait_readable

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """trio, but for the lock, and how one waits for the kernel."""

    def __init__(self, turn: Turn, waiting: Waiting) -> None:
        self._turn = turn
        self.lowlevel = _Lowlevel(waiting)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def Lock(self) -> Turn:
        return self._turn


@contextmanager
def taking_turns(
    pyfuse3: ModuleType, *, greet: Callable[[int], Greeting] | None = None, rush: Rush | None = None
) -> Iterator[None]:
    """Let pyfuse3's main loop, started inside, use a turn, and linger.

    Args:
        greet, rush: see `Waiting`.
    """
    before = getattr(pyfuse3, "trio", None)
    turn, waiting = Turn(), Waiting(greet, rush=rush)
    setattr(pyfuse3, "trio", _Trio(turn, waiting))  # noqa: B010 - its stub does not name it
    trio.lowlevel.add_instrument(turn)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(turn)
        waiting.close()
        setattr(pyfuse3, "trio", before)  # noqa: B010
