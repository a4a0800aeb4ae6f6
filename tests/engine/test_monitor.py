"""Suppliers that stay away: who is waited for, who is replaced, and what happens when one comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.core.standing import State
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import BlockNo, Code, FragmentState, Standing, SupplierNo
from bitdustfs.testing.world import World

PATIENCE_S = 90.0
CODE = Code(3, 5)
CONTENT = bytes(range(256)) * 2000


@asynccontextmanager
async def world_with_a_file(*, candidates: int = 0, patience: Patience | None = None) -> AsyncIterator[World]:
    chosen = patience or Patience.of(PATIENCE_S)
    async with World(candidates=candidates, code=CODE, patience=chosen).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        yield world


def standings(world: World) -> list[Standing]:
    return [row.standing for row in world.catalog.suppliers()]


def holders(world: World, state: FragmentState = FragmentState.HELD) -> set[int]:
    return {int(row.supplier) for row in world.catalog.fragments(BlockNo(1)) if row.state is state}


def blocks_are_full(catalog: SqliteCatalog) -> bool:
    return not catalog.wanting_blocks(1)


@pytest.mark.slow
async def test_supplier_that_is_away_is_offline_and_what_it_holds_counts(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=1) as world:
        world.swarm.suppliers[0].kill()
        await trio.sleep(PATIENCE_S * 0.8)
        assert world.node.monitor.state(world.catalog.suppliers()[0]) is State.OFFLINE
        assert standings(world)[0] is Standing.HIRED
        assert holders(world) == {1, 2, 3, 4, 5}


@pytest.mark.slow
async def test_lost_supplier_is_replaced_and_its_fragments_made_again(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=2) as world:
        for supplier in world.swarm.suppliers[:2]:
            supplier.kill()
        await trio.sleep(PATIENCE_S * 1.5)
        assert standings(world) == [Standing.LOST] * 2 + [Standing.HIRED] * 5
        assert holders(world) == {3, 4, 5, 6, 7}
        assert holders(world, FragmentState.ABSENT) == {1, 2}
        assert blocks_are_full(world.catalog)
        assert await world.sync() == "safe"
        for supplier in world.swarm.suppliers[2:4]:
            supplier.kill()
        await world.node.drop_cache()
        assert await world.read("letter") == CONTENT


@pytest.mark.slow
async def test_fragments_of_a_supplier_that_returns_count_again(autojump_clock: MockClock) -> None:
    async with world_with_a_file() as world:
        world.swarm.suppliers[4].kill()
        await trio.sleep(PATIENCE_S * 1.5)
        assert holders(world, FragmentState.ABSENT) == {5}
        world.swarm.suppliers[4].start()
        await trio.sleep(120)
        assert standings(world) == [Standing.HIRED] * 5
        assert holders(world) == {1, 2, 3, 4, 5}
        assert [each.length_s >= PATIENCE_S for each in world.catalog.absences(SupplierNo(5))] == [True]


@pytest.mark.slow
async def test_nobody_is_given_up_while_most_are_away(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=2) as world:
        for number in range(1, 8):
            world.swarm.cut(number)
        await trio.sleep(PATIENCE_S * 6)
        assert world.node.monitor.is_doubtful
        assert standings(world) == [Standing.HIRED] * 5 + [Standing.CANDIDATE] * 2
        for number in range(2, 8):
            world.swarm.heal(number)
        await trio.sleep(PATIENCE_S * 0.7)
        assert standings(world)[0] is Standing.HIRED, "what it was away while we were cut off counted"
        await trio.sleep(PATIENCE_S)
        assert standings(world)[0] is Standing.LOST


@pytest.mark.slow
async def test_candidates_that_answer_show_that_it_is_not_us(autojump_clock: MockClock) -> None:
    patience = Patience.of(PATIENCE_S)
    async with World(suppliers=3, candidates=3, code=Code(1, 3), patience=patience).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        for supplier in world.swarm.suppliers[:2]:
            supplier.kill()
        await trio.sleep(PATIENCE_S * 2)
        assert not world.node.monitor.is_doubtful
        assert holders(world) > {3}
        assert len(holders(world)) == 3


@pytest.mark.slow
async def test_suppliers_that_are_mute_for_longer_than_a_ping_are_waited_for(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=2) as world:
        for number in range(1, 8):
            world.swarm.silence(number)
        await trio.sleep(120)
        assert world.node.suppliers.online() == ()
        for number in range(1, 8):
            world.swarm.heal(number)
        await trio.sleep(120)
        assert standings(world) == [Standing.HIRED] * 5 + [Standing.CANDIDATE] * 2
        assert holders(world) == {1, 2, 3, 4, 5}


@pytest.mark.slow
async def test_absence_goes_on_over_a_restart(autojump_clock: MockClock) -> None:
    world = World(candidates=1, code=CODE, patience=Patience.of(PATIENCE_S))
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", CONTENT)
            await world.sync()
            world.swarm.suppliers[0].kill()
            await trio.sleep(PATIENCE_S * 0.7)
        await trio.sleep(PATIENCE_S * 5)  # nobody looks
        async with world.machine(world.catalog, world.spool, wait=False):
            await trio.sleep(PATIENCE_S * 0.1)
            assert standings(world)[0] is Standing.HIRED, "time that nobody watched counted"
            await trio.sleep(PATIENCE_S * 0.5)
            assert standings(world)[0] is Standing.LOST


@pytest.mark.slow
@pytest.mark.parametrize("standing", [Standing.LOST, Standing.FIRED])  # the person may give up at once who is lost
async def test_moving_of_fragments_goes_on_after_a_kill(autojump_clock: MockClock, standing: Standing) -> None:
    world = World(code=CODE, patience=Patience.of(PATIENCE_S))
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", CONTENT)
            await world.sync()
        row = world.catalog.suppliers()[0]
        world.catalog.put_supplier(replace(row, standing=standing))  # committed, and nothing was moved yet
        world.catalog.commit()
        world.swarm.suppliers[0].kill()
        async with world.machine(world.catalog, world.spool, wait=False):
            await trio.sleep(30)
            assert holders(world, FragmentState.ABSENT) == {1}


@pytest.mark.slow
async def test_candidate_gets_no_fragment(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=1) as world:
        assert holders(world) == {1, 2, 3, 4, 5}
        assert world.swarm.suppliers[5].memory_shelf.used(world.swarm.identity.owner) == (0, 0)


@pytest.mark.slow
async def test_supplier_with_long_absences_is_waited_for_longer(autojump_clock: MockClock) -> None:
    async with world_with_a_file(patience=Patience(at_none_s=100, at_one_s=PATIENCE_S, else_s=PATIENCE_S)) as world:
        world.swarm.suppliers[0].kill()
        await trio.sleep(PATIENCE_S * 0.9)
        world.swarm.suppliers[0].start()
        await trio.sleep(120)
        world.swarm.suppliers[0].kill()
        await trio.sleep(PATIENCE_S * 1.2)
        assert standings(world)[0] is Standing.HIRED
        await trio.sleep(PATIENCE_S)
        assert standings(world)[0] is Standing.LOST


@pytest.mark.slow
async def test_supplier_that_comes_and_goes_is_given_up_once(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=1) as world:
        flapping, lost = world.swarm.suppliers[0], 0
        for _ in range(10):
            flapping.kill()
            for _ in range(round(PATIENCE_S * 1.3)):
                before = standings(world)[0]
                await trio.sleep(1)
                lost += before is Standing.HIRED and standings(world)[0] is Standing.LOST
            flapping.start()
            await trio.sleep(PATIENCE_S)
            assert standings(world)[0] is Standing.HIRED
        assert lost == 1
        assert blocks_are_full(world.catalog)
