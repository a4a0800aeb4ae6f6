"""The turn: which of pyfuse3's tasks reads the kernel's next request.

pyfuse3 keeps a few tasks. One waits for a request while the others queue at a lock, and it hands the lock to the next
one *before* it answers, for an answer may wait. Ours hardly ever do: then the one that was woken finds nothing to
read yet, and half of all passes of trio's loop were made for that. Here the turn is only laid down. Whoever comes
back for the next request without having waited takes it up again; if its step ends without that, another is woken.

pyfuse3 takes its lock from what its own name `trio` stands for, which its asyncio mode replaces as well; see
`pyfuse3/asyncio.py` and `_wait_fuse_readable` in `pyfuse3/internal.pxi`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any

import trio


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


class _Trio:
    """trio, but for the lock."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def Lock(self) -> Turn:
        return self._turn


@contextmanager
def taking_turns(pyfuse3: ModuleType) -> Iterator[None]:
    """Let pyfuse3's main loop, started inside, use a turn."""
    before = getattr(pyfuse3, "trio", None)
    turn = Turn()
    setattr(pyfuse3, "trio", _Trio(turn))  # noqa: B010 - its stub does not name it
    trio.lowlevel.add_instrument(turn)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(turn)
        setattr(pyfuse3, "trio", before)  # noqa: B010
