"""What upkeep did wrong once, each the shortest story that shows it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.standing import Event
from bitdustfs.engine.collector import keep_back
from bitdustfs.model import BlockNo, Code, FragmentState, Standing, SupplierNo
from bitdustfs.testing.world import SECRETS, World
from tests.engine.recovered import Survivors, stocks
from tests.engine.unneeded import blocks, held, names, stored, until
from tests.engine.volume import Volume

CONTENT = random.Random(3).randbytes(400_000)


@pytest.mark.slow
async def test_parts_of_the_catalog_stay_where_the_newest_head_says_until_a_newer_one_is_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(suppliers=3, candidates=3, code=Code(1, 3)).running() as world:
        await world.write("letter", CONTENT)
        assert await world.sync() == "safe"
        named = held(world.catalog)
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = True
        for number in (1, 2, 3):
            world.node.monitor.meets(world.catalog.suppliers()[number - 1], Event.LEAVE)
        await trio.sleep(120)
        assert named <= stored(world)
        found = await Survivors(stocks(world), without=()).recover(tmp_path / "catalog")
        assert found == {b"letter": CONTENT}


@pytest.mark.slow
async def test_fragment_that_arrives_at_who_was_given_up_meanwhile_is_not_counted(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=Code(3, 5)).running() as world:
        await world.sync()
        await world.write("letter", CONTENT)
        put = world.node.suppliers.put

        async def late(supplier, name, root, body):  # type: ignore[no-untyped-def]
            if supplier == 1:
                await trio.sleep(50)
            await put(supplier, name, root, body)

        world.node.suppliers.put = late  # type: ignore[method-assign]
        await until(lambda: bool(world.catalog.count_blocks()))
        world.node.drainer.leave("s1")
        await trio.sleep(300)
        assert world.catalog.suppliers()[0].standing is Standing.FIRED
        assert not world.catalog.fragments_at(SupplierNo(1), FragmentState.HELD, 10)
        assert held(world.catalog) <= stored(world)


async def test_stray_that_is_about_to_be_let_go_does_not_count_as_held(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        (number,) = volume.catalog.blocks_of(ino)
        await trio.sleep(1)
        block = volume.catalog.block(number)
        assert block is not None
        rows = volume.catalog.fragments(number)
        for row in rows[2:]:
            volume.catalog.drop_fragment(number, row.index, row.supplier)
        nodes = {row.supplier: row.node for row in volume.catalog.suppliers()}
        volume.releases.safe_change = lambda: 0
        names = [(r.supplier, SECRETS.fragment_name(block.block_id, r.index, nodes[r.supplier])) for r in rows[2:]]
        volume.catalog.put_releases(names, volume.catalog.last_change + 1)
        assert len(await volume.fragments.block_range(block, 0, block.length)) == block.length
        assert volume.catalog.held(number) == 2


async def test_older_references_do_not_move_to_a_copy_that_fewer_suppliers_hold(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=8, code=Code(3, 8))
    async with volume.running():
        first = await volume.write_all(CONTENT)
        await volume.flush()
        (old,) = volume.catalog.blocks_of(first)
        await trio.sleep(1)
        for row in volume.catalog.fragments(old)[:3]:
            volume.catalog.drop_fragment(old, row.index, row.supplier)
        volume.remote.full = {1, 2, 3, 4, 5}
        second = await volume.write_all(CONTENT)
        await volume.flush()
        assert volume.catalog.held(volume.catalog.blocks_of(second)[0]) == 3
        assert volume.catalog.blocks_of(first) == [old]


@pytest.mark.slow
async def test_block_whose_chunks_a_repair_could_not_read_is_not_let_go(autojump_clock: MockClock) -> None:
    async with World(suppliers=5, code=Code(3, 5)).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        keep_back(world.catalog, is_missing=True)  # as the repair does
        world.catalog._change("DELETE FROM r_chunk")
        world.catalog._recount_live([1])
        world.node.journal.commit()
        named = held(world.catalog)
        await world.write("other", CONTENT[:1000])
        await world.sync()
        await trio.sleep(120)
        assert world.catalog.block(BlockNo(1)) is not None
        assert set(names(world.catalog, blocks(world.catalog)[0])) <= named & stored(world)
