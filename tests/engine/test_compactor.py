"""Live chunks of mostly dead and of small blocks are written into new ones, and never less safe than before."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.compaction import MERGE_RUN
from bitdustfs.engine.compactor import UNREADABLE_S
from bitdustfs.engine.rewriter import Old
from bitdustfs.errors import BlockLost
from bitdustfs.model import ROOT_INO, BlockNo, ChunkNo, Code, Fingerprint
from bitdustfs.testing.world import World
from tests.engine.recovered import Survivors, stocks
from tests.engine.unneeded import delete, held, stored, stored_bytes, until

CODE = Code(3, 5)
DICE = random.Random(6)
PARTS = {f"part {number}": DICE.randbytes(150_000) for number in range(8)}
KEPT = "part 5"
A_WHILE_S = 90.0  # until what can be collected and compacted is


async def packed(world: World) -> None:
    """Files in one block, all but one of which are gone."""
    for name, content in PARTS.items():
        await world.write(name, content)
    await world.sync()
    assert world.catalog.count_blocks() == 1
    for name in PARTS:
        if name != KEPT:
            delete(world, name)


def lowest(world: World) -> int:
    """The fewest held fragments of any block that a chunk lies in."""
    blocks = [block.block for block in world.catalog.blocks() if world.catalog.chunks_of_block(block.block)]
    return min((world.catalog.held(block) for block in blocks), default=0)


def block_of(world: World, chunk: int) -> BlockNo:
    row = world.catalog.chunk(ChunkNo(chunk))
    assert row is not None
    return row.block


@pytest.mark.slow
async def test_mostly_dead_block_is_written_anew_and_then_released(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with World(code=CODE).running() as world:
        await packed(world)
        await until(lambda: world.catalog.count_blocks() == 1 and block_of(world, 6) == 2)
        await until(lambda: not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)
        assert stored_bytes(world) < 500_000
        assert lowest(world) == 5
        await world.node.drop_cache()
        assert await world.read(KEPT) == PARTS[KEPT]
        assert await world.sync() == "safe"
        found = await Survivors(stocks(world), without=(1, 4)).recover(tmp_path / "catalog")
        assert found == {KEPT.encode(): PARTS[KEPT]}


@pytest.mark.slow
async def test_chunks_do_not_move_to_where_fewer_fragments_are_held(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await packed(world)
        world.swarm.cut(3)
        await trio.sleep(A_WHILE_S)
        assert [block.block for block in world.catalog.blocks()] == [1]
        assert lowest(world) == 5
        world.swarm.heal(3)
        await until(lambda: world.catalog.count_blocks() == 1 and block_of(world, 6) == 2)
        assert [block.block for block in world.catalog.blocks()] == [2]
        assert lowest(world) == 5


@pytest.mark.slow
async def test_supplier_that_breaks_off_meanwhile_leaves_the_old_block_as_it_is(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await packed(world)
        world.swarm.suppliers[2].memory_shelf.donated_bytes = 0
        await trio.sleep(A_WHILE_S)
        assert world.catalog.count_blocks() == 1
        assert block_of(world, 6) == 1
        await trio.sleep(A_WHILE_S)
        assert not world.catalog.uploads()
        assert stored(world) == held(world.catalog)  # what did arrive was let go


@pytest.mark.slow
async def test_small_blocks_become_one(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        contents = {f"note {number}": DICE.randbytes(6000) for number in range(MERGE_RUN)}
        for name, content in contents.items():
            await world.write(name, content)
            await world.sync()
        await until(lambda: world.catalog.count_blocks() == 1 and not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)
        await world.node.drop_cache()
        assert {name: await world.read(name) for name in contents} == contents


@pytest.mark.slow
async def test_block_that_cannot_be_read_keeps_no_other_from_being_compacted(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        read = world.node.rewriter.read

        async def read_most(old: Old) -> list[bytes]:
            if old.row.block == 1:
                raise BlockLost(block="1", have=2, need=3)
            return await read(old)

        world.node.rewriter.read = read_most  # type: ignore[method-assign]
        await packed(world)
        for name, content in PARTS.items():
            await world.write(f"other {name}", content[::-1])
        await world.sync()
        assert block_of(world, 6) == 1 and block_of(world, 9) == 2
        for name in list(PARTS)[1:]:
            delete(world, f"other {name}")
        await until(lambda: block_of(world, 9) != 2)
        assert block_of(world, 6) == 1
        world.node.rewriter.read = read  # type: ignore[method-assign]
        await until(lambda: block_of(world, 6) != 1, most_s=2 * UNREADABLE_S)


@pytest.mark.slow
async def test_block_with_another_content_than_its_catalog_says_keeps_no_other_from_being_compacted(
    autojump_clock: MockClock,
) -> None:
    """Another line may have named it, and lied."""
    async with World(code=CODE).running() as world:
        await packed(world)
        for name, content in PARTS.items():
            await world.write(f"other {name}", content[::-1])
        await world.sync()
        wrong = world.catalog.chunk(ChunkNo(6))
        assert wrong is not None
        with world.node.journal.operation():
            world.catalog.put_chunks([replace(wrong, fingerprint=Fingerprint(b"f" * 32))])
        await world.node.drop_cache()
        for name in list(PARTS)[1:]:
            delete(world, f"other {name}")
        await until(lambda: block_of(world, 9) != 2)
        assert block_of(world, 6) == 1


@pytest.mark.slow
async def test_what_is_deleted_while_it_moves_is_not_brought_back(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await packed(world)
        place = world.node.uploads.place

        async def and_delete(shipment: object, record: object) -> None:
            delete(world, KEPT)
            await world.node.collector.collect()
            await place(shipment, record)  # type: ignore[arg-type]

        world.node.uploads.place = and_delete  # type: ignore[method-assign]
        await until(lambda: world.node.tree.lookup(ROOT_INO, KEPT.encode()) is None)
        world.node.uploads.place = place  # type: ignore[method-assign]
        await until(lambda: not world.catalog.count_blocks() and not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_read_that_began_before_the_block_was_released_gets_its_bytes(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await packed(world)
        await world.node.drop_cache()
        inode = world.node.tree.lookup(ROOT_INO, KEPT.encode())
        assert inode is not None
        real, began = world.node.fragments.block_pieces, trio.Event()

        async def late(block: object, start: int, end: int) -> list[bytes | memoryview]:
            if block.block == 1 and not began.is_set():  # type: ignore[attr-defined]
                began.set()
                await until(lambda: block_of(world, 6) == 2)
                await until(lambda: world.catalog.count_blocks() == 1 and stored(world) == held(world.catalog))
            return await real(block, start, end)  # type: ignore[arg-type]

        world.node.fragments.block_pieces = late  # type: ignore[method-assign]
        reading = world.node.reader.chunk(inode.ino, 0)
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def read() -> None:
                got.append(await reading)

            nursery.start_soon(read)
            await began.wait()
        assert world.catalog.count_blocks() == 1
        assert block_of(world, 6) == 2
        assert got == [PARTS[KEPT]]
