"""A supplier that comes back counts for what it shows, and for nothing that it only had once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.core.standing import State
from bitdustfs.engine.returns import PAGE, SAMPLE
from bitdustfs.model import BlockNo, Code, FragmentName, FragmentState, Standing, SupplierNo
from bitdustfs.testing.byzantine import Trick
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import SECRETS, World
from tests.engine.truth import all_blocks, good_rows
from tests.engine.unneeded import until

PATIENCE_S = 90.0
CODE = Code(3, 5)
FILES = 6
BACK = SupplierNo(5)


@asynccontextmanager
async def world_without_the_fifth() -> AsyncIterator[World]:
    """Five suppliers, the last of them lost; nobody takes its place, so nothing hides what counts."""
    dice = random.Random(6)
    async with World(code=CODE, patience=Patience.of(PATIENCE_S)).running() as world:
        for number in range(FILES):
            await world.write(f"file {number}", dice.randbytes(60_000))
            await world.sync()
        fifth(world).kill()
        await until(lambda: bool(at(world, FragmentState.ABSENT)) and not at(world, FragmentState.HELD))
        assert len(at(world, FragmentState.ABSENT)) >= FILES
        yield world


def fifth(world: World) -> SupplierNode:
    return world.swarm.suppliers[BACK - 1]


def at(world: World, state: FragmentState) -> list[tuple[BlockNo, int]]:
    return [(row.block, row.index) for row in world.catalog.fragments_at(BACK, state, 1000)]


def name_of(world: World, number: BlockNo, index: int) -> FragmentName:
    block = world.catalog.block(number)
    assert block is not None
    return SECRETS.fragment_name(block.block_id, index, fifth(world).node)


def forget_of(world: World, part: int) -> int:
    """Its disk has every `part`th fragment no more. Returns how many are left."""
    (held,) = fifth(world).memory_shelf._fragments.values()
    for name in sorted(held)[::part]:
        del held[name]
    return len(held)


async def counted_at_most(world: World) -> set[tuple[BlockNo, int]]:
    """What counted as held there at any time until nothing is to be shown any more."""
    seen: set[tuple[BlockNo, int]] = set()

    def look() -> None:
        seen.update(at(world, FragmentState.HELD))

    world.node.journal.before_commit(look)
    fifth(world).start()
    await until(lambda: not at(world, FragmentState.ABSENT))
    return seen


@pytest.mark.slow
async def test_supplier_that_comes_back_with_everything_counts_again(autojump_clock: MockClock) -> None:
    async with world_without_the_fifth() as world:
        absent = set(at(world, FragmentState.ABSENT))
        fifth(world).start()
        await until(lambda: set(at(world, FragmentState.HELD)) >= absent)
        assert world.catalog.suppliers()[BACK - 1].standing is Standing.HIRED
        assert not at(world, FragmentState.LOST)
        for block in all_blocks(world):
            assert len(good_rows(world, block)) == 5


@pytest.mark.slow
async def test_supplier_that_comes_back_empty_never_counts_for_what_it_had(autojump_clock: MockClock) -> None:
    async with world_without_the_fifth() as world:
        absent = set(at(world, FragmentState.ABSENT))
        world.node.rebuilder.at_work |= {block for block, _ in absent}
        assert forget_of(world, 1) == 0
        assert not await counted_at_most(world) & absent
        assert set(at(world, FragmentState.LOST)) >= absent
        world.node.rebuilder.at_work.clear()
        await until(lambda: not world.catalog.wanting_blocks(1))  # given back to it: there is nobody else
        for block in all_blocks(world):
            assert len(good_rows(world, block)) == 5


@pytest.mark.slow
async def test_supplier_that_comes_back_with_a_part_counts_for_that(autojump_clock: MockClock) -> None:
    async with world_without_the_fifth() as world:
        absent = set(at(world, FragmentState.ABSENT))
        world.node.rebuilder.at_work |= {block for block, _ in absent}
        left = forget_of(world, 2)
        counted = await counted_at_most(world) & absent
        assert 0 < len(counted) <= left
        for block in all_blocks(world):
            good = {(row.block, row.index) for row in good_rows(world, block)}
            assert {each for each in counted if each[0] == block.block} <= good


@pytest.mark.slow
async def test_supplier_that_names_what_it_cannot_show_counts_for_nothing(autojump_clock: MockClock) -> None:
    async with world_without_the_fifth() as world:
        absent = set(at(world, FragmentState.ABSENT))
        world.node.rebuilder.at_work |= {block for block, _ in absent}
        fifth(world).conduct.tricks = {Trick.FLIP}
        assert not await counted_at_most(world) & absent
        assert set(at(world, FragmentState.LOST)) >= absent


@pytest.mark.slow
async def test_fragment_that_is_not_named_does_not_count_though_nobody_asks_for_its_leaves(
    autojump_clock: MockClock,
) -> None:
    async with world_without_the_fifth() as world:
        absent = at(world, FragmentState.ABSENT)
        world.node.rebuilder.at_work |= {block for block, _ in absent}
        world.node.returns._some = lambda count: []  # type: ignore[method-assign]
        (held,) = fifth(world).memory_shelf._fragments.values()
        del held[name_of(world, *absent[-1])]
        assert await counted_at_most(world) & set(absent) == set(absent[:-1])
        assert at(world, FragmentState.LOST) == [absent[-1]]


@pytest.mark.slow
async def test_what_one_wrong_fragment_shares_a_page_with_is_asked_for_one_by_one(autojump_clock: MockClock) -> None:
    async with world_without_the_fifth() as world:
        absent = at(world, FragmentState.ABSENT)
        assert SAMPLE < len(absent) <= PAGE
        world.node.rebuilder.at_work |= {block for block, _ in absent}
        world.node.returns._some = lambda count: [0] if count else []  # type: ignore[method-assign]
        bad = {name_of(world, *absent[0]), name_of(world, *absent[-1])}
        fifth(world).conduct.tricks = {Trick.FLIP}
        fifth(world).conduct.touches = lambda name: name in bad
        assert await counted_at_most(world) & set(absent) == set(absent[1:-1])
        assert at(world, FragmentState.LOST) == [absent[0], absent[-1]]


@pytest.mark.slow
async def test_what_was_not_shown_is_asked_for_after_a_restart(autojump_clock: MockClock) -> None:
    world = World(code=CODE, patience=Patience.of(PATIENCE_S))
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", bytes(50_000))
            await world.sync()
            fifth(world).kill()
            await until(lambda: bool(at(world, FragmentState.ABSENT)))
        fifth(world).start()
        async with world.machine(world.catalog, world.spool):
            await until(lambda: not at(world, FragmentState.ABSENT))
            assert at(world, FragmentState.HELD)


@pytest.mark.slow
async def test_leaving_supplier_that_was_lost_goes_on_leaving_when_it_is_back(autojump_clock: MockClock) -> None:
    async with World(suppliers=7, code=CODE, patience=Patience.of(PATIENCE_S)).running() as world:
        await world.write("letter", bytes(range(256)) * 2000)
        await world.sync()
        world.node.drainer.may_drain = lambda: False
        world.node.drainer.leave("s5")
        fifth(world).kill()
        await until(lambda: world.catalog.suppliers()[BACK - 1].standing is Standing.MISSING)
        assert world.node.monitor.state(world.catalog.suppliers()[BACK - 1]) is State.MISSING
        await trio.sleep(2 * PATIENCE_S)
        fifth(world).start()
        standings: set[Standing] = set()
        world.node.journal.before_commit(lambda: standings.add(world.catalog.suppliers()[BACK - 1].standing))
        await until(lambda: world.catalog.suppliers()[BACK - 1].standing is Standing.LEAVING)
        world.node.drainer.may_drain = lambda: True
        await until(lambda: world.catalog.suppliers()[BACK - 1].standing is Standing.FIRED)
        assert Standing.HIRED not in standings
        assert not world.catalog.wanting_blocks(1)
        assert await world.sync() == "safe"
