"""Budgets: how much memory all connections of a process may hold together (invariant I13).

Two of them, so that neither waits for the other. What came in is given back when it is worked off, which needs no
network; what goes out is held until the peer took it, which may take as long as the peer likes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

INBOUND_BYTES: Final = 48 * 1024 * 1024  # (tune) bodies being received and worked on, all peers together
OUTBOUND_BYTES: Final = 48 * 1024 * 1024  # (tune) bodies of answers being made and sent, all peers together


class Budget:
    """So many bytes of memory, handed out in order of asking."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._free = total_bytes
        self._queue = trio.Lock()
        self._freed = trio.Event()

    @property
    def free_bytes(self) -> int:
        return self._free

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Wait for room for `count` bytes and hold it for the block."""
        await self.take(count)
        try:
            yield
        finally:
            self.give(count)

    async def take(self, count: int) -> None:
        """Wait for room. What was taken must be given back."""
        if not count:
            return  # nothing must not queue up behind those who wait for much
        count = min(count, self._total)
        async with self._queue:
            while self._free < count:
                self._freed = trio.Event()
                await self._freed.wait()
            self._free -= count

    def give(self, count: int) -> None:
        self._free += min(count, self._total)
        self._freed.set()


class Memory:
    """The budgets that all connections of a process share."""

    def __init__(self, *, inbound_bytes: int = INBOUND_BYTES, outbound_bytes: int = OUTBOUND_BYTES) -> None:
        self.inbound = Budget(inbound_bytes)
        self.outbound = Budget(outbound_bytes)
