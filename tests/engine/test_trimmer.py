"""Fragments of a supplier that came back, and were made again elsewhere meanwhile, are let go in the end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.model import BlockNo, Code, FragmentState
from bitdustfs.testing.byzantine import Trick
from bitdustfs.testing.world import World
from tests.engine.unneeded import held, stored, until

PATIENCE_S = 10.0
FIRST_BLOCK = BlockNo(1)
CONTENT = bytes(range(256)) * 2000


def holders(world: World, block: BlockNo = FIRST_BLOCK) -> set[int]:
    return {int(row.supplier) for row in world.catalog.fragments(block) if row.state is FragmentState.HELD}


async def with_one_back(world: World) -> None:
    """A file in a block that six suppliers hold: the first was lost, and is back."""
    await world.write("letter", CONTENT)
    await world.sync()
    world.swarm.suppliers[0].kill()
    await until(lambda: holders(world) == {2, 3, 4, 5, 6}, most_s=900)
    world.swarm.suppliers[0].start()
    await until(lambda: holders(world) == {1, 2, 3, 4, 5, 6})


@pytest.mark.slow
async def test_fragment_that_is_held_twice_is_let_go_after_a_while(autojump_clock: MockClock) -> None:
    async with World(candidates=1, code=Code(3, 5), patience=Patience.of(PATIENCE_S)).running() as world:
        await with_one_back(world)
        await world.node.trimmer.walk()
        assert len(holders(world)) == 6
        await until(lambda: len(holders(world)) == 5 and not world.catalog.count_releases())
        assert world.catalog.held(BlockNo(1)) == 5
        assert stored(world) == held(world.catalog)
        await world.node.drop_cache()
        assert await world.read("letter") == CONTENT


@pytest.mark.slow
async def test_supplier_that_never_answers_is_asked_once_a_walk(autojump_clock: MockClock) -> None:
    asked: list[bytes] = []

    def note(name: bytes) -> bool:
        asked.append(name)
        return True

    world = World(suppliers=3, candidates=1, code=Code(2, 3), patience=Patience.of(PATIENCE_S), audits_a_day=1)
    async with world.running():
        for number in range(6):
            await world.write(f"letter {number}", bytes([number]) + CONTENT[:100_000])
            await world.sync()
        blocks = [row.block for row in world.catalog.blocks()]
        assert len(blocks) == 6
        world.swarm.suppliers[0].kill()
        await until(lambda: all(holders(world, each) == {2, 3, 4} for each in blocks), most_s=900)
        world.swarm.suppliers[0].start()
        await until(lambda: all(holders(world, each) == {1, 2, 3, 4} for each in blocks))
        for number in (0, 3):  # one of the two is to show each block, before the other one lets it go
            conduct = world.swarm.suppliers[number].conduct
            conduct.tricks, conduct.touches = {Trick.STALL}, note
        await trio.sleep(PATIENCE_S)  # until they are counted on
        asked.clear()
        await world.node.trimmer.walk()
        assert 1 <= len(asked) < len(blocks)
        assert all(holders(world, each) == {1, 2, 3, 4} for each in blocks)
        for number in (0, 3):
            world.swarm.suppliers[number].conduct.reform()
        await until(lambda: all(len(holders(world, each)) == 3 for each in blocks))


@pytest.mark.slow
async def test_nothing_is_let_go_while_another_supplier_is_away(autojump_clock: MockClock) -> None:
    patience = Patience(at_none_s=PATIENCE_S, at_one_s=40 * PATIENCE_S, else_s=40 * PATIENCE_S)
    async with World(candidates=1, code=Code(3, 5), patience=patience).running() as world:
        await with_one_back(world)
        world.swarm.suppliers[3].kill()
        await trio.sleep(8 * PATIENCE_S)
        assert holders(world) == {1, 2, 3, 4, 5, 6}
        world.swarm.suppliers[3].start()
        world.node.suppliers.nudge()  # it is back before we give it up
        await until(lambda: len(holders(world)) == 5)
        assert world.catalog.held(BlockNo(1)) == 5


@pytest.mark.slow
async def test_who_came_back_empty_takes_nobodys_place(autojump_clock: MockClock) -> None:
    world = World(candidates=1, code=Code(3, 5), patience=Patience.of(PATIENCE_S), audits_a_day=1)
    async with world.running():
        await world.write("letter", CONTENT)
        await world.sync()
        world.swarm.suppliers[0].kill()
        await until(lambda: holders(world) == {2, 3, 4, 5, 6}, most_s=900)
        world.swarm.suppliers[0].wipe()
        world.swarm.suppliers[5].memory_shelf.donated_bytes = 1 << 25  # the other one has more room
        world.swarm.suppliers[0].start()
        await trio.sleep(20 * PATIENCE_S)
        assert holders(world) == {2, 3, 4, 5, 6}
