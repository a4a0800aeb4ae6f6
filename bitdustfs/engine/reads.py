"""Reads: the kernel's reads while they wait for suppliers (I12).

A coat around the reader. Each read that waits holds one of the few places that the kernel has for reads, so those
that get nowhere may not take them all: `core.patience` decides which end, here that is done. A read that ends early
leaves its fetch going, and its range is remembered as failed for a moment, because the kernel asks again at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import trio

from bitdustfs.core.patience import KERNEL_SLOTS, STALLED_MOST, WaitingRead, reads_to_end
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.reader import Coming, Reader
from bitdustfs.errors import Unavailable
from bitdustfs.model import Ino

LOOK_EVERY_S = 0.05  # while somebody is asked
SELDOM_S = 0.5  # (tune) while only services ask, such as audits: nobody waits for what they get
BUSY_S = 0.5  # (tune) after a read that waited, the next one is probably not far


@dataclass(frozen=True, slots=True)
class _Waiting:
    coming: Coming
    scope: trio.CancelScope


class Reads:
    """What `Files` reads published chunks through, on behalf of the kernel."""

    def __init__(self, reader: Reader, fragments: Fragments) -> None:
        self._reader = reader
        self._fragments = fragments
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._slots = KERNEL_SLOTS
        self._looked_at = trio.current_time()
        self._ended_at = -inf
        self._come = trio.Event()  # a read that waits

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def is_busy(self) -> bool:
        """Whether somebody waits, or did a moment ago."""
        return bool(self._waiting) or trio.current_time() - self._ended_at < BUSY_S

    def allow(self, slots: int) -> None:
        """The kernel hands over so many reads at a time."""
        self._slots = slots

    async def chunk(self, ino: Ino, index: int) -> bytes:
        """As `Reader.chunk`. Raises Unavailable too, when it has waited longest of too many."""
        while isinstance(found := self._reader.begin(ino, index), Coming):
            await self._wait_for(found)
            if not self._reader.is_elsewhere(ino, index, found):
                return self._reader.taken(found)
        return found

    def ahead(self, ino: Ino, indexes: Sequence[int], enough: int = 0) -> int:
        """As `Reader.ahead`."""
        return self._reader.ahead(ino, indexes, enough)

    @property
    def ahead_chunks(self) -> int:
        """As `Reader.ahead_chunks`."""
        return self._reader.ahead_chunks

    async def run(self) -> None:
        """Look after whoever waits, until cancelled."""
        while True:
            await self._fragments.asks.wait_until_asking()
            if not self.is_busy() and await self._nobody_comes(SELDOM_S):
                self._fragments.asks.look()
                continue
            self._looked_at = trio.current_time()
            await trio.sleep(LOOK_EVERY_S)
            if self._was_late():
                self._looked_at = trio.current_time()
                await trio.sleep(LOOK_EVERY_S)
            self._fragments.asks.look()
            self._looked_at = trio.current_time()
            self._end_stalled()

    async def _nobody_comes(self, within_s: float) -> bool:
        """Wait so long, or until a read waits. Says whether none did, and this process did get to run."""
        began, self._come = trio.current_time(), trio.Event()
        with trio.move_on_after(within_s):
            await self._come.wait()
        return not self._come.is_set() and trio.current_time() - began <= within_s + LOOK_EVERY_S

    async def _wait_for(self, found: Coming) -> None:
        self._come.set()
        number = next(self._numbers)
        with trio.CancelScope() as scope:
            self._waiting[number] = _Waiting(found, scope)
            self._end_stalled()
            try:
                await found.done.wait()
            finally:
                del self._waiting[number]
                self._ended_at = trio.current_time()
                if not found.done.is_set():  # also when the deadline of the request has come
                    self._reader.note_failed(found.row.chunk, _late())
        if not found.done.is_set():
            raise _late()

    def _was_late(self) -> bool:
        """Say whether this process did not get to run: then what came meanwhile was not received yet."""
        return trio.current_time() - self._looked_at > 2 * LOOK_EVERY_S

    def _end_stalled(self) -> None:
        if self._was_late() or not self._to_end():
            return
        self._fragments.asks.look()  # before one ends, others are asked on its behalf
        for number in self._to_end():
            self._waiting[number].scope.cancel()

    def _to_end(self) -> list[int]:
        if len(self._waiting) <= STALLED_MOST:
            return []
        quiet = self._fragments.asks.quiet()
        waiting = [
            WaitingRead(number, quiet.get(each.coming.row.block, 0.0)) for number, each in self._waiting.items()
        ]
        return reads_to_end(waiting, slots=self._slots)


def _late() -> Unavailable:
    return Unavailable(what="the suppliers did not answer in time")
