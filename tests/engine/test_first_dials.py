"""Reads in the first seconds after a start: they wait for suppliers that are dialled for the first time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.patience import CALM_S, KERNEL_SLOTS, STALLED_MOST
from bitdustfs.engine.suppliers import FIRST_DIALS_S
from bitdustfs.errors import BitdustError, TooFewFragments
from bitdustfs.model import Code
from bitdustfs.testing.network import Line
from bitdustfs.testing.world import World

CONTENT = random.Random(5).randbytes(100_000)
CODE = Code(3, 5)
FILES = KERNEL_SLOTS
SOON_S = 1.0
SLOW = Line(latency_s=0.5)  # connect, greeting and STAT take three seconds


@asynccontextmanager
async def just_started(before: Callable[[World], None]) -> AsyncIterator[World]:
    """A volume whose files are only at five suppliers, and a machine that started a moment ago.

    Args:
        before: what happens before it starts.
    """
    world = World(code=CODE)
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            for number in range(FILES):
                await world.write(f"f{number}", CONTENT[number:])
            await world.sync()
            await world.node.drop_cache()
        before(world)
        async with world.machine(world.catalog, world.spool, wait=False):
            yield world


def slow_down(world: World) -> None:
    for supplier in world.swarm.suppliers:
        world.swarm.network.set_line(world.swarm.identity.node, supplier.node, SLOW)


@pytest.mark.slow
async def test_read_right_after_the_start_waits_for_the_first_suppliers(autojump_clock: MockClock) -> None:
    async with just_started(slow_down) as world:
        assert not world.node.suppliers.online()
        assert await world.read("f0") == CONTENT


@pytest.mark.slow
async def test_read_right_after_the_start_does_without_suppliers_that_are_not_needed(
    autojump_clock: MockClock,
) -> None:
    def silence_two(world: World) -> None:
        slow_down(world)
        world.swarm.silence(1)
        world.swarm.cut(2)

    async with just_started(silence_two) as world:
        with trio.fail_after(FIRST_DIALS_S / 2):
            assert await world.read("f0") == CONTENT


@pytest.mark.slow
async def test_read_fails_as_soon_as_all_were_dialled_in_vain(autojump_clock: MockClock) -> None:
    def cut_all(world: World) -> None:
        for number in range(1, 6):
            world.swarm.cut(number)

    async with just_started(cut_all) as world:
        with trio.fail_after(SOON_S), pytest.raises(TooFewFragments):
            await world.read("f0")


@pytest.mark.slow
async def test_read_fails_at_once_when_the_suppliers_still_to_come_are_too_few(autojump_clock: MockClock) -> None:
    def leave_two(world: World) -> None:
        for number in (1, 2, 3):
            world.swarm.cut(number)
        for number in (4, 5):
            world.swarm.silence(number)

    async with just_started(leave_two) as world:
        with trio.fail_after(SOON_S), pytest.raises(TooFewFragments):
            await world.read("f0")


@pytest.mark.slow
async def test_read_waits_for_suppliers_that_do_not_answer_for_a_bounded_time_after_the_start_only(
    autojump_clock: MockClock,
) -> None:
    def silence_all(world: World) -> None:
        for number in range(1, 6):
            world.swarm.silence(number)

    async with just_started(silence_all) as world:
        began = trio.current_time()
        with pytest.raises(TooFewFragments):
            await world.read("f0")
        assert trio.current_time() - began <= FIRST_DIALS_S + SOON_S
        with trio.fail_after(SOON_S), pytest.raises(TooFewFragments):
            await world.read("f1")


@pytest.mark.slow
async def test_few_of_many_reads_right_after_the_start_wait_while_nobody_answers(autojump_clock: MockClock) -> None:
    def silence_all(world: World) -> None:
        for number in range(1, 6):
            world.swarm.silence(number)

    async with just_started(silence_all) as world, trio.open_nursery() as nursery:
        ended = []

        async def read(name: str) -> None:
            with pytest.raises(BitdustError):
                await world.read(name)
            ended.append(name)

        for number in range(FILES):
            nursery.start_soon(read, f"f{number}")
        await trio.sleep(CALM_S)
        assert len(world.node.reads) == STALLED_MOST
        assert len(ended) == FILES - STALLED_MOST
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_first_suppliers_are_awaited_after_a_start_only(autojump_clock: MockClock) -> None:
    async with just_started(lambda world: None) as world:
        while len(world.node.suppliers.online()) < CODE.n:
            await world.node.suppliers.wait_for_change()
        for number in range(1, 6):
            world.swarm.silence(number)
        for supplier in world.swarm.suppliers:
            world.swarm.network.break_links(supplier.node)
        while world.node.suppliers.online():
            await world.node.suppliers.wait_for_change()
        with trio.fail_after(SOON_S), pytest.raises(TooFewFragments):
            await world.read("f0")
