"""Disks of suppliers that fill up: fragments go elsewhere or wait, and nothing is lost."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import Code
from bitdustfs.testing.world import World

CODE = Code(3, 5)
DICE = random.Random(12)
CONTENT = DICE.randbytes(700_000)


@pytest.mark.slow
async def test_fragments_of_a_supplier_with_a_full_disk_go_elsewhere(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=CODE).running() as world:
        full = world.swarm.suppliers[0]
        full.memory_shelf.donated_bytes = 0  # it has not told us yet
        for number in range(8):
            await world.write(f"file {number}", CONTENT[number:])
        assert await world.sync() == "safe"
        status = await world.status()
        assert (status["held"], status["wanted"], status["missing_fragments"]) == (5, 5, 0)
        assert full.memory_shelf.free_bytes() == 0
        await world.node.drop_cache()
        for number in range(8):
            assert await world.read(f"file {number}") == CONTENT[number:]


@pytest.mark.slow
async def test_files_stay_here_while_all_disks_are_full_and_leave_when_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("before", CONTENT)
        await world.sync()
        for supplier in world.swarm.suppliers:
            supplier.memory_shelf.donated_bytes = 0
        await world.write("later", CONTENT[1:])
        await trio.sleep(120)
        status = await world.status()
        assert (status["state"], status["files_local"]) == ("local", 1)
        assert any("the contracts are full" in sentence for sentence in status["trouble"])
        assert await world.read("later") == CONTENT[1:]
        assert await world.read("before") == CONTENT
        for supplier in world.swarm.suppliers:
            supplier.memory_shelf.donated_bytes = 1 << 40
        await trio.sleep(180)
        status = await world.status()
        assert (status["state"], status["files_local"], status["missing_fragments"]) == ("safe", 0, 0)


async def test_supplier_that_makes_room_a_moment_after_it_was_hired_is_used_within_seconds(
    autojump_clock: MockClock,
) -> None:
    """As a friend does who has just joined: he promises, and then his machine takes in how much he gives."""
    world = World(suppliers=1)
    async with world.hired():
        shelf = world.swarm.suppliers[0].memory_shelf
        shelf.donated_bytes = 0
        async with world.machine(world.catalog, world.spool):
            await trio.sleep(0.5)
            shelf.donated_bytes = 1 << 40
            await world.write("letter", CONTENT)
            await trio.sleep(20)  # and nobody syncs, for that would ask at once
            status = await world.status()
            assert (status["files_local"], status["missing_fragments"]) == (0, 0)


@pytest.mark.slow
async def test_who_waits_for_a_sync_does_not_wait_for_the_next_ping_of_a_full_supplier(
    autojump_clock: MockClock,
) -> None:
    async with World(suppliers=1).running() as world:
        shelf = world.swarm.suppliers[0].memory_shelf
        shelf.donated_bytes = 0
        await world.write("letter", CONTENT)
        await trio.sleep(100)
        shelf.donated_bytes = 1 << 40
        since = trio.current_time()
        assert await world.sync() == "safe"
        assert trio.current_time() - since < 5
