"""No virtual time passes while a thread works.

A clock that jumps to the next deadline once every task waits would do so too while a thread works for one of them: a
slow disk would then cost a test seconds or minutes of virtual time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import trio
from trio.testing import MockClock

_in_a_thread = trio.to_thread.run_sync
_working: Counter[MockClock] = Counter()  # how many threads, by the clock of whoever waits for them
_usual: dict[MockClock, float] = {}  # its threshold while none works


async def _run_sync(*args: Any, **kwargs: Any) -> Any:
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        return await _in_a_thread(*args, **kwargs)
    with _still(clock):
        return await _in_a_thread(*args, **kwargs)


@contextmanager
def _still(clock: MockClock) -> Iterator[None]:
    if not _working[clock]:
        _usual[clock] = clock.autojump_threshold
        clock.autojump_threshold = inf
    _working[clock] += 1
    try:
        yield
    finally:
        _working[clock] -= 1
        if not _working[clock]:
            del _working[clock]
            clock.autojump_threshold = _usual.pop(clock)


def install() -> None:
    """Have `trio.to_thread.run_sync` do so from now on."""
    module: Any = trio.to_thread
    module.run_sync = _run_sync
