"""The reader: published chunks from suppliers.

A chunk is a range of its block. Healthy, it is fetched as leaves of one or a few primary fragments, each leaf checked
against the fragment's root before anything else looks at it. Whatever fails (no connection, no answer, wrong bytes)
is replaced by the same columns of any k fragments and a decode. Wrong bytes are proof: that fragment is lost.

One fetch serves everybody who waits for it and goes on when one of them gives up.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from bitdustfs.core import erasure, fragment
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.journal import Journal
from bitdustfs.errors import (
    BadLeaf,
    BitdustError,
    BlockLost,
    ChunkMissing,
    PeerError,
    PeerGone,
    PeerLacks,
    TooFewFragments,
    Unavailable,
)
from bitdustfs.model import (
    HOLE,
    LEAF_BYTES,
    SEAL_BYTES,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Ino,
    Supplier,
    SupplierNo,
    short,
)
from bitdustfs.ports import Catalog, Crunch, Leaves

ANSWER_PATIENCE_S = 5.0  # (tune) then others are asked instead; the kernel's request has its own, longer deadline
SLOW_FOR_S = 30.0  # who did not answer in time is asked last for this long
MEMORY_BYTES = 24 * 1024 * 1024  # unsealed chunks on their way to a reader: three read-ahead windows of 8 MiB
SMALL_LEAVES = 2  # reads up to this many leaves keep them: the next small file of the block lies there too
LEAF_MEMORY = 256  # leaves kept, 4 MiB
HASH_MEMORY = 1024  # hash lists kept, about 3 KiB each for a full block
AHEAD_MOST = 64  # chunks fetched ahead at one time, over all files
THREAD_BYTES = 128 * 1024  # below this a hop into a worker costs more than the work
_log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")


class FragmentSource(Protocol):
    """What the reader needs of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def get(
        self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool
    ) -> Leaves: ...


@dataclass(slots=True, eq=False)
class _Coming:
    """A chunk that is being fetched."""

    done: trio.Event = field(default_factory=trio.Event)
    plaintext: bytes | None = None
    error: BitdustError | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns [start, end) of one fragment."""

    index: int
    start: int
    end: int


class Reader:
    """Fetch, check, decode and unseal published chunks."""

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        source: FragmentSource,
        crunch: Crunch,
        secrets: VolumeSecrets,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._source = source
        self._crunch = crunch
        self._secrets = secrets
        self._nursery: trio.Nursery | None = None
        self._memory: OrderedDict[ChunkNo, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._coming: dict[ChunkNo, _Coming] = {}
        self._hashes: OrderedDict[tuple[BlockNo, int], bytes] = OrderedDict()
        self._leaves: OrderedDict[tuple[BlockNo, int, int], bytes] = OrderedDict()
        self._slow_until: dict[SupplierNo, float] = {}
        self._rows: dict[SupplierNo, Supplier] = {}
        self.fetched_bytes = 0  # fragment bytes that came from suppliers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetches live as long as this context."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def chunk(self, ino: Ino, index: int) -> bytes:
        """The plaintext of a published chunk; b"" for a hole.

        Raises:
            ChunkMissing: the catalog has no entry. TooFewFragments: not now. BlockLost, SealBroken: for good.
        """
        row = self._row(ino, index)
        if row is None:
            return b""
        known = self._remembered(row.chunk)
        if known is not None:
            return known
        coming = self._coming.get(row.chunk) or self._start([row])[0]
        await coming.done.wait()
        if coming.error is not None:
            raise coming.error
        assert coming.plaintext is not None
        return coming.plaintext

    def ahead(self, ino: Ino, indexes: Iterable[int]) -> None:
        """Start to fetch chunks that will probably be read soon. Chunks side by side come in one request."""
        group: list[ChunkRow] = []
        for index in indexes:
            if len(self._coming) + len(group) >= AHEAD_MOST:
                break
            try:
                row = self._row(ino, index)
            except ChunkMissing:
                break
            if row is None or row.chunk in self._memory or row.chunk in self._coming:
                continue
            if group and not _side_by_side(group[-1], row):
                self._start(group)
                group = []
            group.append(row)
        if group:
            self._start(group)

    async def block_range(self, block: BlockRow, start: int, end: int) -> bytes:
        """Bytes [start, end) of a block as it was coded, checked leaf by leaf."""
        length = erasure.fragment_length(block.length, block.code.k)
        parts = [
            _Part(index, max(start, index * length) - index * length, min(end, (index + 1) * length) - index * length)
            for index in range(start // length, (end - 1) // length + 1)
        ]
        got = await self._parts(block, parts)
        failed: dict[tuple[int, int], None] = {(p.start, p.end): None for p in parts if p not in got}
        for low, high in failed:
            at_hand = {p.index: got[p] for p in parts if p in got and (p.start, p.end) == (low, high)}
            avoid = {p.index for p in parts if p not in got}
            primaries = await self._decoded(block, low, high, at_hand, avoid)
            for part in parts:
                if (part.start, part.end) == (low, high):
                    got[part] = primaries[part.index]
        return b"".join(got[part] for part in parts)

    def forget(self) -> None:
        """Drop every remembered chunk and leaf, so that the next read comes from suppliers."""
        self._memory.clear()
        self._memory_bytes = 0
        self._leaves.clear()

    # -- chunks --------------------------------------------------------------------------------------------

    def _row(self, ino: Ino, index: int) -> ChunkRow | None:
        rows = self._catalog.map_rows(ino, index, index)
        if not rows:
            raise ChunkMissing(ino=ino, index=index)
        if rows[0].chunk == HOLE:
            return None
        row = self._catalog.chunk(rows[0].chunk)
        if row is None:
            raise ChunkMissing(ino=ino, index=index)
        return row

    def _start(self, rows: list[ChunkRow]) -> list[_Coming]:
        if self._nursery is None:
            raise Unavailable(what="the volume is being unmounted")
        coming = [_Coming() for _ in rows]
        for row, each in zip(rows, coming, strict=True):
            self._coming[row.chunk] = each
        self._nursery.start_soon(self._fetch, rows, coming)
        return coming

    async def _fetch(self, rows: list[ChunkRow], coming: list[_Coming]) -> None:
        error: BitdustError = Unavailable(what="the volume is being unmounted")
        try:
            plaintexts = await self._unsealed(rows)
            for row, each, plaintext in zip(rows, coming, plaintexts, strict=True):
                each.plaintext = plaintext
                self._remember(row.chunk, plaintext)
        except BitdustError as e:
            error = e
        except Exception:  # noqa: BLE001 - a fault of ours costs the requests that wait for it, not the mount
            _log.exception("a fetch failed")
            error = BitdustError(what="a fetch failed by a fault of bitdustfs; see the log")
        finally:
            for row, each in zip(rows, coming, strict=True):
                if each.plaintext is None:
                    each.error = error
                self._coming.pop(row.chunk, None)
                each.done.set()

    async def _unsealed(self, rows: Sequence[ChunkRow]) -> list[bytes]:
        block = self._catalog.block(rows[0].block)
        if block is None:
            raise BlockLost(block=rows[0].block, have=0, need=1)
        start = rows[0].offset
        sealed = memoryview(await self.block_range(block, start, rows[-1].offset + rows[-1].length + SEAL_BYTES))
        seal = self._secrets.seal_of(block.block_id, block.scope, block.suite)

        def unseal() -> list[bytes]:
            return [
                seal.unseal(row.slot, sealed[row.offset - start : row.offset - start + row.length + SEAL_BYTES])
                for row in rows
            ]

        return await self._crunch.run(unseal) if len(sealed) >= THREAD_BYTES else unseal()

    def _remembered(self, chunk: ChunkNo) -> bytes | None:
        plaintext = self._memory.get(chunk)
        if plaintext is not None:
            self._memory.move_to_end(chunk)
        return plaintext

    def _remember(self, chunk: ChunkNo, plaintext: bytes) -> None:
        if chunk not in self._memory:
            self._memory[chunk] = plaintext
            self._memory_bytes += len(plaintext)
        while self._memory_bytes > MEMORY_BYTES:
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    # -- fragments -----------------------------------------------------------------------------------------

    async def _parts(self, block: BlockRow, parts: Sequence[_Part]) -> dict[_Part, bytes | memoryview]:
        """Fetch parts of fragments at once; what fails is left out."""
        held = self._holders(block.block)
        got: dict[_Part, bytes | memoryview] = {}

        async def fetch(part: _Part) -> None:
            content = await self._part(block, part, held.get(part.index, ()))
            if content is not None:
                got[part] = content

        if len(parts) == 1:
            await fetch(parts[0])
            return got
        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(fetch, part)
        return got

    async def _decoded(
        self, block: BlockRow, start: int, end: int, at_hand: Mapping[int, bytes | memoryview], avoid: set[int]
    ) -> tuple[bytes | memoryview, ...]:
        """Columns [start, end) of all primary fragments, from any k fragments."""
        have = dict(at_hand)
        held = self._holders(block.block)
        spare = sorted((i for i in held if i not in have and i not in avoid), key=lambda i: self._slowness(held[i]))
        while len(have) < block.code.k and spare:
            need = block.code.k - len(have)
            asked, spare = spare[:need], spare[need:]
            got = await self._parts(block, [_Part(index, start, end) for index in asked])
            have.update({part.index: content for part, content in got.items()})
        if len(have) < block.code.k:
            raise self._too_few(block, len(have))
        if end - start >= THREAD_BYTES:
            decoded = await self._crunch.run(erasure.decode, have, block.code.k)
        else:
            decoded = erasure.decode(have, block.code.k)
        return decoded

    def _too_few(self, block: BlockRow, have: int) -> BitdustError:
        left = {f.index for f in self._catalog.fragments(block.block) if f.state is FragmentState.HELD}
        if len(left) < block.code.k:
            return BlockLost(block=short(block.block_id), have=len(left), need=block.code.k)
        online = set(self._source.online())
        waiting = [
            self._supplier(f.supplier).label
            for f in self._catalog.fragments(block.block)
            if f.state is FragmentState.HELD and f.supplier not in online
        ]
        missing = ", ".join(waiting) or "suppliers that do not answer"
        return TooFewFragments(block=short(block.block_id), have=have, need=block.code.k, missing=missing)

    def _holders(self, block: BlockNo) -> dict[int, list[SupplierNo]]:
        """Fragment index -> connected suppliers that hold it."""
        online = set(self._source.online())
        holders: dict[int, list[SupplierNo]] = {}
        for row in self._catalog.fragments(block):
            if row.state is FragmentState.HELD and row.supplier in online:
                holders.setdefault(row.index, []).append(row.supplier)
        return holders

    def _slowness(self, holders: Sequence[SupplierNo]) -> float:
        now = trio.current_time()
        return min(max(0.0, self._slow_until.get(s, 0.0) - now) for s in holders)

    async def _part(self, block: BlockRow, part: _Part, holders: Sequence[SupplierNo]) -> bytes | memoryview | None:
        """Columns of one fragment from whoever holds it; None if nobody gave them."""
        first = part.start // LEAF_BYTES
        count = (part.end - 1) // LEAF_BYTES + 1 - first
        leaves: bytes | memoryview | None = self._known_leaves(block.block, part.index, first, count)
        for supplier in holders:
            if leaves is not None:
                break
            leaves = await self._leaves_from(supplier, block, part.index, first, count)
        if leaves is None:
            return None
        return leaves[part.start - first * LEAF_BYTES : part.end - first * LEAF_BYTES]

    def _known_leaves(self, block: BlockNo, index: int, first: int, count: int) -> bytes | None:
        if count > SMALL_LEAVES:
            return None
        known = [self._leaves.get((block, index, first + i)) for i in range(count)]
        return b"".join(leaf for leaf in known if leaf is not None) if None not in known else None

    async def _leaves_from(
        self, supplier: SupplierNo, block: BlockRow, index: int, first: int, count: int
    ) -> bytes | memoryview | None:
        """Ask one supplier and check what it says. Its faults are noted here, once."""
        row = self._supplier(supplier)
        name = self._secrets.fragment_name(block.block_id, index, row.node)
        hashes = self._hashes.get((block.block, index))
        leaves: Leaves | None = None
        try:
            with trio.move_on_after(ANSWER_PATIENCE_S):
                leaves = await self._source.get(supplier, name, first, count, hashes=hashes is None)
        except PeerLacks as e:
            _log.warning("%s: fragment %d of block %s is lost: %s", row.label, index, short(block.block_id), e)
            self._lost(block, index, supplier)
            return None
        except PeerError as e:
            level = logging.DEBUG if isinstance(e, PeerGone) else logging.WARNING
            _log.log(level, "%s: fragment %d of block %s: %s", row.label, index, short(block.block_id), e)
            return None
        if leaves is None:
            _log.warning("%s did not answer within %.0f s; others are asked", row.label, ANSWER_PATIENCE_S)
            self._slow_until[supplier] = trio.current_time() + SLOW_FOR_S
            return None
        checked = hashes or leaves.hashes
        if not await self._genuine(block, index, first, count, leaves, checked):
            _log.warning("%s", BadLeaf(peer=row.label, fragment=f"{index} of block {short(block.block_id)}"))
            self._lost(block, index, supplier)
            return None
        self.fetched_bytes += len(leaves.content)
        _put_bounded(self._hashes, (block.block, index), checked, HASH_MEMORY)
        if count <= SMALL_LEAVES:
            for i in range(count):
                leaf = bytes(leaves.content[i * LEAF_BYTES : (i + 1) * LEAF_BYTES])
                _put_bounded(self._leaves, (block.block, index, first + i), leaf, LEAF_MEMORY)
        return leaves.content

    async def _genuine(
        self, block: BlockRow, index: int, first: int, count: int, leaves: Leaves, hashes: bytes
    ) -> bool:
        length = erasure.fragment_length(block.length, block.code.k)
        expected = min(count * LEAF_BYTES, length - first * LEAF_BYTES)
        if len(leaves.content) != expected or len(hashes) != fragment.leaf_count(length) * fragment.HASH_BYTES:
            return False
        if fragment.root_of(hashes, length) != block.roots[index]:
            return False
        if expected < THREAD_BYTES:
            return fragment.leaves_are_genuine(hashes, first, leaves.content)
        return await self._crunch.run(fragment.leaves_are_genuine, hashes, first, leaves.content)

    def _lost(self, block: BlockRow, index: int, supplier: SupplierNo) -> None:
        try:
            with self._journal.operation():
                self._catalog.put_fragment(FragmentRow(block.block, index, supplier, FragmentState.LOST))
        except BitdustError as e:  # it will be found lost again
            _log.warning("a lost fragment could not be noted: %s", e)

    def _supplier(self, number: SupplierNo) -> Supplier:
        if number not in self._rows:
            self._rows = {row.supplier: row for row in self._catalog.suppliers()}
        return self._rows[number]


def _side_by_side(left: ChunkRow, right: ChunkRow) -> bool:
    return left.block == right.block and right.offset == left.offset + left.length + SEAL_BYTES


def _put_bounded(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
