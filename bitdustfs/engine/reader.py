"""The reader: published chunks, fetched, unsealed, and remembered for a moment.

A chunk is a range of its block, which `fragments` brings. One fetch serves everybody who waits for it and goes on
when one of them gives up. What failed is not tried again for FAILED_S, unless another supplier is reachable now: who
gets an error often asks again at once, the kernel and file managers among them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

import trio

from bitdustfs.core.block import part_of
from bitdustfs.core.patience import ELSEWHERE_S, SILENT_S
from bitdustfs.core.seal import BlockSeal
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.leaves import THREAD_BYTES
from bitdustfs.engine.neighbours import SMALL_BYTES, Neighbours
from bitdustfs.engine.strays import put_bounded
from bitdustfs.errors import BitdustError, BlockLost, ChunkMissing, Kind, Unavailable
from bitdustfs.model import (
    BLOCK_BYTES,
    BLOCK_CHUNKS,
    HOLE,
    SEAL_BYTES,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Ino,
    SupplierNo,
)
from bitdustfs.ports import Catalog, Crunch

FRESH_BYTES = 32 * 1024 * 1024  # unsealed chunks that nobody has read yet: as many as are fetched ahead at most
USED_BYTES = 4 * 1024 * 1024  # those that somebody has read: what he needs again is in the spool, if that has room
AHEAD_MOST = 4 * BLOCK_CHUNKS  # chunks fetched ahead at one time, over all files
AHEAD_CHUNKS = 2 * BLOCK_CHUNKS  # of one file: one block is fetched while one is read
AHEAD_SLOWLY_CHUNKS = 3 * BLOCK_CHUNKS  # with fewer blocks under way, slow lines have nothing to do at times
SLOWLY_S = 0.1  # (tune) what a fragment of a full block takes then
PACED_S = 0.05  # (tune) how long the same number of chunks is fetched ahead
FAILED_S = 2.0  # (tune) how long a chunk that failed is not tried again
FAILED_MEMORY = 4096  # chunks that failed lately
SEAL_MEMORY = 64  # (tune) blocks whose row and key are kept: small files of one block are read after each other
_FRAGMENT_BYTES = BLOCK_BYTES // 3  # (tune) of some code
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Coming:
    """A chunk that is being fetched."""

    row: ChunkRow
    done: trio.Event = field(default_factory=trio.Event)
    plaintext: bytes | None = None
    error: BitdustError | None = None

    def result(self) -> bytes:
        """What came, once it is done. Raises what the fetch ended with."""
        if self.error is not None:
            raise self.error.with_traceback(None)  # by everybody who waits
        assert self.plaintext is not None
        return self.plaintext


@dataclass(frozen=True, slots=True)
class _Failed:
    """A chunk that could not be had."""

    error: BitdustError
    until: float
    reachable: frozenset[SupplierNo]  # when it failed


class Reader:
    """Fetch and unseal published chunks."""

    def __init__(
        self,
        catalog: Catalog,
        fragments: Fragments,
        crunch: Crunch,
        secrets: VolumeSecrets,
    ) -> None:
        self._catalog = catalog
        self._fragments = fragments
        self._crunch = crunch
        self._secrets = secrets
        self._nursery: trio.Nursery | None = None
        self._neighbours = Neighbours(fragments)
        self._fresh = _Chunks(FRESH_BYTES)
        self._used = _Chunks(USED_BYTES)
        self._coming: dict[ChunkNo, Coming] = {}
        self._failed: OrderedDict[ChunkNo, _Failed] = OrderedDict()
        self._ahead_chunks, self._paced_until = AHEAD_CHUNKS, -inf
        self._era = 0  # what was begun in an older one is told to who waits for it, and not remembered
        # of a chunk whose block is lost: its plaintext, from wherever else it is; None: from nowhere
        self.elsewhere: Callable[[ChunkRow], Awaitable[bytes | None]] | None = None
        self._seals: OrderedDict[BlockNo, tuple[BlockRow, BlockSeal]] = OrderedDict()  # of a number they never change

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetches live as long as this context."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._fragments.leaves.fade)
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def chunk(self, ino: Ino, index: int) -> bytes:
        """The plaintext of a published chunk; b"" for a hole. Tries whatever failed before.

        Raises:
            ChunkMissing: the catalog has no entry. TooFewFragments: not now. BlockLost, SealBroken: for good.
        """
        while True:
            row = self._row(ino, index)
            found = self._at_hand(row)
            if found is not None:
                return found
            assert row is not None
            coming = self._coming.get(row.chunk) or self._start([row])[0]
            await coming.done.wait()
            if not self.is_elsewhere(ino, index, coming):
                return self.taken(coming)

    async def of_row(self, row: ChunkRow) -> bytes:
        """The same of a chunk whatever file has it. Raises TooFewFragments: not now. BlockLost, SealBroken."""
        found = self._at_hand(row)
        if found is not None:
            return found
        coming = self._coming.get(row.chunk) or self._start([row])[0]
        await coming.done.wait()
        return coming.result()

    def begin(self, ino: Ino, index: int) -> bytes | Coming:
        """The plaintext of a chunk, if it is at hand, or else the fetch that brings it. Does not wait.

        Raises:
            What `chunk` does, also if that is what the chunk failed with lately.
        """
        row = self._row(ino, index)
        found = self._at_hand(row)
        if found is not None:
            return found
        assert row is not None
        failed = self._failed_lately(row.chunk) or self._in_vain(row)
        if failed is not None:
            raise failed.with_traceback(None)  # it is raised many times
        return self._coming.get(row.chunk) or self._start([row])[0]

    def is_elsewhere(self, ino: Ino, index: int, coming: Coming) -> bool:
        """Whether a fetch failed because its block was released: what the file has there lies elsewhere by now."""
        if coming.error is None:
            return False
        try:
            return self._row(ino, index) != coming.row
        except ChunkMissing:  # the file became shorter
            return False

    def taken(self, coming: Coming) -> bytes:
        """What a fetch brought, for somebody who reads it now. Raises what the fetch ended with."""
        plaintext = coming.result()
        self._remembered(coming.row.chunk)
        return plaintext

    def note_failed(self, chunk: ChunkNo, error: BitdustError) -> None:
        """Let further reads of a chunk fail at once for a moment."""
        failed = _Failed(error, trio.current_time() + FAILED_S, self._fragments.asks.reachable())
        put_bounded(self._failed, chunk, failed, FAILED_MEMORY)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of fragments that came from suppliers so far."""
        return self._fragments.leaves.fetched_bytes

    def ahead(self, ino: Ino, indexes: Sequence[int], enough: int = 0) -> int:
        """Start to fetch chunks that will probably be read soon. Chunks side by side come in one request.

        Args:
            indexes: in order.
            enough: chunks from there on are fetched only with others of their block before it; 0: all are.
        Returns:
            Up to which index that was done.
        """
        group: list[ChunkRow] = []
        wanted, until = frozenset(indexes), enough or (indexes[-1] + 1 if indexes else 0)
        for index, row in self._catalog.placed(ino, indexes[0], indexes[-1]) if indexes else ():
            if index >= enough > 0 and not (group and _side_by_side(group[-1], row)):
                break
            if index not in wanted or row.chunk in self._coming or self._is_remembered(row.chunk):
                continue
            if len(self._coming) + len(group) >= AHEAD_MOST:
                until = index
                break
            if self._failed_lately(row.chunk) or self._fragments.asks.quiet_s(row.block) >= ELSEWHERE_S:
                until = index
                break  # it would only keep suppliers from answering what is waited for
            if group and not _side_by_side(group[-1], row):
                self._start(group)
                group = []
            group.append(row)
            until = max(until, index + 1)
        if group:
            self._start(group)
        return until

    @property
    def ahead_chunks(self) -> int:
        """How many chunks to fetch ahead of who reads a file in sequence."""
        if (now := trio.current_time()) >= self._paced_until:  # each read asks, and speeds do not change so fast
            is_slow = self._fragments.asks.speeds.typical_s(_FRAGMENT_BYTES) > SLOWLY_S
            self._ahead_chunks = AHEAD_SLOWLY_CHUNKS if is_slow else AHEAD_CHUNKS
            self._paced_until = now + PACED_S
        return self._ahead_chunks

    def forget(self) -> None:
        """Drop every remembered chunk and leaf, so that the next read comes from suppliers."""
        self._fresh.clear()
        self._used.clear()
        self._fragments.leaves.forget()
        self._neighbours.forget()

    def forget_all(self) -> None:
        """The same, and what is known of blocks: their numbers may stand for others from now on."""
        self.forget()
        self._seals.clear()
        self._failed.clear()
        self._era += 1
        self._coming.clear()
        self._fragments.leaves.forget_all()
        self._fragments.strays.forget()

    # -- chunks --------------------------------------------------------------------------------------------

    def _row(self, ino: Ino, index: int) -> ChunkRow | None:
        placed = self._catalog.placed(ino, index, index)
        if placed:
            return placed[0][1]
        rows = self._catalog.map_rows(ino, index, index)
        if not rows or rows[0].chunk != HOLE:
            raise ChunkMissing(ino=ino, index=index)
        return None

    def _start(self, rows: list[ChunkRow]) -> list[Coming]:
        if self._nursery is None:
            raise Unavailable(what="the volume is being unmounted")
        coming = [Coming(row) for row in rows]
        for row, each in zip(rows, coming, strict=True):
            self._coming[row.chunk] = each
        self._nursery.start_soon(self._fetch, rows, coming)
        return coming

    async def _fetch(self, rows: list[ChunkRow], coming: list[Coming]) -> None:
        error: BitdustError = Unavailable(what="the volume is being unmounted")
        era = self._era
        try:
            plaintexts = await self._anyhow(rows)
            for row, each, plaintext in zip(rows, coming, plaintexts, strict=True):
                each.plaintext = plaintext
                if era == self._era:
                    self._fresh.put(row.chunk, plaintext)
        except BitdustError as e:
            error = e
        except Exception:  # noqa: BLE001 - a fault of ours costs the requests that wait for it, not the mount
            _log.exception("a fetch failed")
            error = BitdustError(what="a fetch failed by a fault of bitdustfs; see the log")
        finally:
            for row, each in zip(rows, coming, strict=True):
                if each.plaintext is None:
                    each.error = error
                    if era == self._era and self._catalog.chunk(row.chunk) == row:
                        self.note_failed(row.chunk, error)
                if self._coming.get(row.chunk) is each:
                    del self._coming[row.chunk]
                each.done.set()

    async def _anyhow(self, rows: Sequence[ChunkRow]) -> list[bytes]:
        try:
            return await self._unsealed(rows)
        except BitdustError as error:
            if self.elsewhere is None or error.kind is not Kind.LOST:
                raise
            found = [await self.elsewhere(row) for row in rows]
            if None in found:
                raise
            return [each for each in found if each is not None]

    async def _unsealed(self, rows: Sequence[ChunkRow]) -> list[bytes]:
        await self._neighbours.wait(rows[0])
        block, seal = self._block(rows[0].block)
        start, end = rows[0].offset, rows[-1].offset + rows[-1].length + SEAL_BYTES
        is_small = len(rows) == 1 and rows[0].length <= SMALL_BYTES
        known = self._fragments.at_hand(block, start, end) if is_small else None
        pieces = [known] if known is not None else await self._fragments.block_pieces(block, start, end)
        if is_small and known is None and self._nursery is not None:
            self._neighbours.missed(block, rows[0], self._nursery)

        def unseal() -> list[bytes]:
            return [
                seal.unseal(row.slot, part_of(pieces, row.offset - start, row.length + SEAL_BYTES)) for row in rows
            ]

        return await self._crunch.run(unseal) if end - start >= THREAD_BYTES else unseal()

    def _block(self, number: BlockNo) -> tuple[BlockRow, BlockSeal]:
        known = self._seals.get(number)
        if known is None:
            block = self._catalog.block(number)
            if block is None:
                raise BlockLost(block=number, have=0, need=1)
            known = block, self._secrets.seal_of(block.block_id, block.scope, block.suite)
            put_bounded(self._seals, number, known, SEAL_MEMORY)
        return known

    def _at_hand(self, row: ChunkRow | None) -> bytes | None:
        if row is None:
            return b""
        if self._nursery is not None and row.length <= SMALL_BYTES:
            self._neighbours.follow(self._block(row.block)[0], row, self._nursery)
        return self._remembered(row.chunk) or self._from_leaves(row)

    def _from_leaves(self, row: ChunkRow) -> bytes | None:
        """A small chunk whose leaves came with the one beside it: a task for it would cost more than it does."""
        block, seal = self._block(row.block)
        sealed = self._fragments.at_hand(block, row.offset, row.offset + row.length + SEAL_BYTES)
        return None if sealed is None else seal.unseal(row.slot, sealed)

    def _failed_lately(self, chunk: ChunkNo) -> BitdustError | None:
        failed = self._failed.get(chunk)
        if failed is None:
            return None
        if trio.current_time() < failed.until and self._fragments.asks.reachable() <= failed.reachable:
            return failed.error
        del self._failed[chunk]
        return None

    def _in_vain(self, row: ChunkRow) -> BitdustError | None:
        """Why a fetch of this chunk only waits for suppliers that are silent, if it does."""
        if self._fragments.asks.quiet_s(row.block) < SILENT_S:
            return None
        block = self._catalog.block(row.block)
        return self._fragments.too_few(block) if block is not None else None

    def _remembered(self, chunk: ChunkNo) -> bytes | None:
        plaintext = self._fresh.pop(chunk) or self._used.pop(chunk)
        if plaintext is not None:
            self._used.put(chunk, plaintext)
        return plaintext

    def _is_remembered(self, chunk: ChunkNo) -> bool:
        return chunk in self._fresh or chunk in self._used


class _Chunks:
    """Chunks in memory, the newest of them up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._chunks: OrderedDict[ChunkNo, bytes] = OrderedDict()
        self._bytes = 0

    def __contains__(self, chunk: ChunkNo) -> bool:
        return chunk in self._chunks

    def put(self, chunk: ChunkNo, plaintext: bytes) -> None:
        self.pop(chunk)
        self._chunks[chunk] = plaintext
        self._bytes += len(plaintext)
        while self._bytes > self._most_bytes:
            _, dropped = self._chunks.popitem(last=False)
            self._bytes -= len(dropped)

    def pop(self, chunk: ChunkNo) -> bytes | None:
        plaintext = self._chunks.pop(chunk, None)
        self._bytes -= len(plaintext or b"")
        return plaintext

    def clear(self) -> None:
        self._chunks.clear()
        self._bytes = 0


def _side_by_side(left: ChunkRow, right: ChunkRow) -> bool:
    return left.block == right.block and right.offset == left.offset + left.length + SEAL_BYTES
