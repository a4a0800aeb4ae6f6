"""Locks that mostly nobody has: taken without a pass of the loop, which costs more than most of what they guard."""

from __future__ import annotations

from types import TracebackType

import trio


class Held:
    """`async with` a lock. Only who has to wait lets others run, and is cancelled there.

    A class, because each message does it: a generator costs three times as much.
    """

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
