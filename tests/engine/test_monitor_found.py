"""Mistakes that a reader found in how suppliers are watched, each held fast."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.model import BlockNo, Code, Standing, SupplierNo
from bitdustfs.testing.world import World

CODE = Code(2, 4)
NONE_S = 300.0
YEARS_S = 10 * 365 * 86400.0
PATIENCE = Patience(at_none_s=NONE_S, at_one_s=NONE_S * 20, else_s=NONE_S * 20)


def standings(world: World) -> list[Standing]:
    return [row.standing for row in world.catalog.suppliers()]


@asynccontextmanager
async def one_away(world: World) -> AsyncIterator[None]:
    """One of four suppliers is away, for longer than we would wait if no other fragment could be spared."""
    async with world.machine(world.catalog, world.spool):
        await world.write("letter", bytes(range(256)) * 2000)
        await world.sync()
        world.swarm.suppliers[0].kill()
        await trio.sleep(NONE_S * 3)
        assert standings(world) == [Standing.HIRED] * 4
        yield


@pytest.mark.slow
async def test_connection_that_breaks_for_a_moment_makes_nobody_else_lost(autojump_clock: MockClock) -> None:
    world = World(suppliers=4, code=CODE, patience=PATIENCE)
    async with world.hired(), one_away(world):
        world.swarm.cut(2)
        await trio.sleep(1)
        world.swarm.heal(2)
        await trio.sleep(60)
        assert standings(world) == [Standing.HIRED] * 4


@pytest.mark.slow
async def test_supplier_that_connects_late_after_a_start_makes_nobody_else_lost(autojump_clock: MockClock) -> None:
    world = World(suppliers=4, code=CODE, patience=PATIENCE)
    async with world.hired():
        async with one_away(world):
            pass
        world.swarm.cut(2)
        async with world.machine(world.catalog, world.spool, wait=False):
            await trio.sleep(30)
            world.swarm.heal(2)
            await trio.sleep(60)
            assert standings(world) == [Standing.HIRED] * 4


@pytest.mark.slow
async def test_suppliers_without_a_fragment_of_a_block_make_nobody_lost_sooner(autojump_clock: MockClock) -> None:
    world = World(suppliers=8, code=CODE, patience=PATIENCE)
    async with world.hired(), world.machine(world.catalog, world.spool):
        await world.write("letter", bytes(range(256)) * 2000)
        await world.sync()
        holders = {row.supplier for row in world.catalog.fragments(BlockNo(1))}
        others = [n for n in range(1, 9) if n not in holders]
        for number in others[:3]:
            world.swarm.suppliers[number - 1].kill()
        await trio.sleep(NONE_S * 2)
        assert standings(world) == [Standing.HIRED] * 8


@pytest.mark.slow
async def test_habit_that_a_wrong_clock_dated_into_the_future_is_forgotten(autojump_clock: MockClock) -> None:
    world = World(suppliers=4, code=CODE, patience=PATIENCE)
    async with world.hired(), world.machine(world.catalog, world.spool):
        for jump_s in (YEARS_S, -YEARS_S):
            world.swarm.wall.move_s(jump_s)
            world.swarm.suppliers[0].kill()
            await trio.sleep(200)
            world.swarm.suppliers[0].start()
            await trio.sleep(30)
        assert len(world.catalog.absences(SupplierNo(1))) == 1


@pytest.mark.slow
async def test_candidate_that_became_a_supplier_a_moment_ago_leaves_as_one_and_is_not_given_up_at_once(
    autojump_clock: MockClock,
) -> None:
    async with World(code=CODE, candidates=1).running() as world:
        await trio.sleep(20)  # the monitor knows it as a candidate
        row = world.catalog.suppliers()[5]
        world.catalog.put_supplier(replace(row, standing=Standing.HIRED))
        assert (await world.node.leave(row.label))["state"] == "leaving"
