"""Blocks of which a fragment is held twice become whole though all who answer hold some of them already."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.model import BlockNo, Code, FragmentState
from bitdustfs.testing.world import World
from tests.engine.test_trimmer import CONTENT, PATIENCE_S, holders
from tests.engine.truth import all_blocks, good_rows
from tests.engine.unneeded import until

LIVING = {2, 4, 5, 6, 7}


async def without_three(world: World, *, wiped: str = "") -> None:
    """Two are lost, and both spares take their places; one is back, and before anything is trimmed a third dies."""
    await world.write("letter", CONTENT)
    await world.sync()
    for number in (1, 2):
        world.swarm.suppliers[number - 1].kill()
    await until(lambda: holders(world) == {3, 4, 5, 6, 7} and not world.catalog.wanting_blocks(1), most_s=900)
    if wiped == "while away":
        world.swarm.suppliers[1].wipe()
    world.swarm.suppliers[1].start()
    await until(
        lambda: not world.catalog.fragments_at(world.catalog.suppliers()[1].supplier, FragmentState.ABSENT, 1)
    )
    if wiped == "once back":
        world.swarm.suppliers[1].wipe()
    world.swarm.suppliers[2].kill()
    await until(lambda: world.catalog.suppliers()[2].is_lost)


def is_whole(world: World) -> bool:
    """Every block has different fragments at all that live."""
    for block in all_blocks(world):
        good = good_rows(world, block)
        if {row.index for row in good} != set(range(5)) or {int(row.supplier) for row in good} != LIVING:
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("wiped", ["", "while away"])
async def test_one_of_two_that_hold_the_same_takes_what_a_third_held(autojump_clock: MockClock, wiped: str) -> None:
    async with World(candidates=2, code=Code(3, 5), patience=Patience.of(PATIENCE_S)).running() as world:
        await without_three(world, wiped=wiped)
        await until(lambda: is_whole(world) and not world.catalog.wanting_blocks(1))
        assert await world.sync() == "safe"
        await world.node.drop_cache()
        for number in (4, 5):
            world.swarm.suppliers[number - 1].kill()
        assert await world.read("letter") == CONTENT


@pytest.mark.slow
async def test_nothing_makes_room_before_the_other_one_has_shown_the_same(autojump_clock: MockClock) -> None:
    world = World(candidates=2, code=Code(3, 5), patience=Patience.of(PATIENCE_S), audits_a_day=1)
    async with world.running():
        world.swarm.suppliers[1].memory_shelf.donated_bytes = 1 << 25  # the other one has more room
        left: list[int] = []

        def look() -> None:
            block = world.catalog.block(BlockNo(1))
            if block is not None and world.catalog.suppliers()[2].is_lost:
                left.append(len({row.index for row in good_rows(world, block)}))

        world.node.journal.before_commit(look)
        await without_three(world, wiped="once back")
        await until(lambda: is_whole(world) and not world.catalog.wanting_blocks(1))
        assert min(left) == 4
