"""A directory in memory, shared by whoever is given the same one; silent or slow when it is told to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio

from bitdustfs.core import record as records
from bitdustfs.core.record import Record, newer
from bitdustfs.model import RecordId


class FakeDirectory:
    """A ports.Directory.

    Attributes:
        published: each record that was given to it, in order, with who was to get it too.
        is_silent: nothing is found, and nobody takes anything.
        hangs: no answer ever comes.
    """

    def __init__(self, now_s: Callable[[], int]) -> None:
        self._now_s = now_s
        self._records: dict[RecordId, Record] = {}
        self.published: list[tuple[Record, tuple[str, ...]]] = []
        self.pinned: tuple[RecordId, ...] = ()
        self.asked: list[RecordId] = []
        self.is_silent = False
        self.hangs = False

    async def publish(self, record: bytes, also: Sequence[str] = ()) -> int:
        parsed = records.parse(record)
        await self._answer()
        self.published.append((parsed, tuple(also)))
        if self.is_silent:
            return 0
        best = newer(self._records.get(parsed.id), parsed, now_s=self._now_s())
        if best is not None:
            self._records[parsed.id] = best
        return int(best is parsed)

    async def find(self, record_id: RecordId) -> bytes | None:
        self.asked.append(record_id)
        await self._answer()
        best = newer(self._records.get(record_id), None, now_s=self._now_s())
        return best.raw if best is not None and not self.is_silent else None

    async def join(self, addresses: Sequence[str]) -> int:
        await self._answer()
        return 0 if self.is_silent else len(addresses)

    def pin(self, ids: Iterable[RecordId]) -> None:
        self.pinned = tuple(ids)

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
