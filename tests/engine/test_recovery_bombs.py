"""Heads that name little and mean much: whoever opens them, in a recovery, as a reader or by a fork, stays small."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import msgspec
import pytest
from trio.testing import MockClock

from bitdustfs.core import replica
from bitdustfs.core.block import Placed
from bitdustfs.core.recovery import Found
from bitdustfs.core.replica import DeltaRef, Manifest, ObjectRef
from bitdustfs.core.seal import Kind
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.recovery import Recovery
from bitdustfs.errors import BadFormat, DiskTooSmall
from bitdustfs.model import IMAGE_CHUNK_BYTES, BlockNo, RestoreReport
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.world import SECRETS, World

MIB = 1024 * 1024
CHUNKS = 20_000
SMALL = replica.compress_chunk(bytes(IMAGE_CHUNK_BYTES))


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Sink:
    """A catalog in the making on a disk of `room` chunks that keeps nothing."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.written = 0

    def expect(self, chunks: int) -> None:
        if chunks > self.room:
            raise DiskTooSmall(what="the catalog", needed="much", path="here", left="little")

    def write(self, index: int, content: bytes) -> None:
        assert len(content) == IMAGE_CHUNK_BYTES
        self.written += 1

    def apply(self, changes: bytes) -> None:
        raise AssertionError("it was refused before")

    def finish(self, *, last_change: int = 0, verbatim: bool = False) -> RestoreReport:
        raise AssertionError("it was refused before")

    def close(self) -> None:
        return


class Thief:
    """Somebody who has the keys, and whatever suppliers take."""

    def __init__(self, world: World, found: Found) -> None:
        self.world = world
        self.found = found

    async def place(self, kind: Kind, pieces: Sequence[bytes]) -> tuple[ObjectRef, tuple[Placed, ...]]:
        placed: list[tuple[Placed, ...]] = []
        objects = self.world.node.replica._objects

        def record(_block: BlockNo, places: tuple[Placed, ...]) -> None:
            placed.append(places)

        number = await objects.place(kind, pieces, record, copied=True)
        return objects.reference(number, sum(map(len, pieces))), placed[0]

    async def image(self, order: Sequence[Placed], block: ObjectRef) -> Found:
        """A head with a manifest of one block, whose places follow one another like this."""
        places = tuple((0, place.slot, place.offset, place.length) for place in order)
        packed = replica.encode_manifest(Manifest(replica.VERSION, 5, places, (block,)))
        manifest, _ = await self.place(Kind.MANIFEST, replica.cut(packed))
        content = msgspec.structs.replace(self.found.content, manifest=(manifest,), deltas=())
        return replace(self.found, content=content)

    async def fetch(self, found: Found, sink: Sink) -> None:
        scratch, suppliers = SqliteCatalog(":memory:", create=True), self.world.suppliers
        recovery = Recovery(found, suppliers, SECRETS, InlineCrunch(), self.world.swarm.entropy, scratch)
        await recovery.fetch(sink, say_nothing, is_connected=True)


@asynccontextmanager
async def stealing() -> AsyncIterator[Thief]:
    async with World().running() as world:
        await world.write("file", b"file")
        assert await world.sync() == "safe"
        head, content = world.node.publisher.head, world.node.publisher.content
        assert head is not None and content is not None
        yield Thief(world, Found(head, content, {}))


@contextmanager
def small(most_bytes: int) -> Iterator[None]:
    """Fail if more memory than this was in use at some time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


async def say_nothing(*_: object) -> None:
    return


@pytest.mark.slow
async def test_block_of_chunks_that_expand_to_a_hundred_times_as_much_is_restored_one_by_one(
    autojump_clock: MockClock,
) -> None:
    async with stealing() as thief:
        block, places = await thief.place(Kind.IMAGE, [SMALL] * CHUNKS)
        found, sink = await thief.image(places, block), Sink()
        with small(100 * MIB):
            await thief.fetch(found, sink)
        assert sink.written == CHUNKS


@pytest.mark.slow
async def test_image_for_which_the_disk_has_no_room_is_refused_before_anything_is_written(
    autojump_clock: MockClock,
) -> None:
    """One chunk, at all places of a file of 320 MB."""
    async with stealing() as thief:
        block, places = await thief.place(Kind.IMAGE, [SMALL])
        found, sink = await thief.image(places * CHUNKS, block), Sink(room=CHUNKS - 1)
        with pytest.raises(DiskTooSmall):
            await thief.fetch(found, sink)
        assert not sink.written


@pytest.mark.slow
async def test_delta_that_expands_to_far_more_than_any_has_is_refused(autojump_clock: MockClock) -> None:
    async with stealing() as thief:
        bomb = replica.compress(bytes(200 * MIB))
        assert len(bomb) < MIB
        ref, _ = await thief.place(Kind.DELTA, replica.cut(bomb))
        block, places = await thief.place(Kind.IMAGE, [SMALL])
        found = await thief.image(places, block)
        found = replace(found, content=msgspec.structs.replace(found.content, deltas=(DeltaRef(6, 6, ref),)))
        with small(60 * MIB), pytest.raises(BadFormat, match="longer or shorter than it says"):
            await thief.fetch(found, Sink())
