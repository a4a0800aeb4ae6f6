"""Repair, scans and uploads leave the line to reads that somebody waits for, and go on all the same."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.core.pace import READERS_SHARE, SHARE, background_share, pause_s
from bitdustfs.engine.courtesy import LOOK_S, Courtesy
from bitdustfs.model import Code
from bitdustfs.testing.world import World

MIB = 1 << 20
LINE = 2 * MIB  # bytes a second, in each direction
CODE = Code(3, 5)


async def paused_s(courtesy: Courtesy, busy_s: float, spare: int) -> float:
    began = trio.current_time()
    await courtesy.pause(busy_s, spare)
    return trio.current_time() - began


async def read_s(world: World, name: str) -> float:
    """How long it takes to read a file that is not here."""
    await world.node.drop_cache()
    began = trio.current_time()
    await world.read(name)
    return trio.current_time() - began


def test_only_what_is_in_danger_takes_everything_and_only_while_nobody_reads() -> None:
    assert background_share(1, is_reading=False) == 1
    assert background_share(2, is_reading=False) == SHARE
    assert background_share(2, is_reading=True) == background_share(1, is_reading=True) == READERS_SHARE
    assert READERS_SHARE < background_share(0, is_reading=True) < 1


def test_pause_makes_work_a_share_of_the_time() -> None:
    assert pause_s(3.0, 1.0) == 0
    assert 3.0 / (3.0 + pause_s(3.0, 0.2)) == 0.2


async def test_pause_ends_with_its_reason(autojump_clock: MockClock) -> None:
    reading = True
    courtesy = Courtesy(lambda: reading)
    assert await paused_s(courtesy, 2.0, 1) >= 8
    async with trio.open_nursery() as nursery:
        nursery.start_soon(courtesy.pause, 1000.0, 1)
        await trio.sleep(3)
        reading, ended = False, trio.current_time()
    assert trio.current_time() - ended <= LOOK_S
    assert await paused_s(courtesy, 2.0, 2) >= 2


@pytest.mark.slow
async def test_reads_keep_seven_tenths_while_blocks_are_made_again(autojump_clock: MockClock) -> None:
    dice = random.Random(3)
    async with World(suppliers=5, candidates=1, code=CODE, patience=Patience.of(30)).running() as world:
        await world.write("read", dice.randbytes(24 * MIB))
        await world.sync()
        world.node.suppliers.pacer.limit(up=LINE, down=LINE)
        alone_s = await read_s(world, "read")
        await world.node.drop_cache()
        world.swarm.cut(5)
        while not world.node.rebuilder.at_work:
            await trio.sleep(0.1)
        assert len(world.node.rebuilder.at_work) == 1, "nobody knows yet how long one takes"
        missing = world.node.reporter.missing_fragments()
        assert await read_s(world, "read") <= alone_s / 0.7
        left = world.node.reporter.missing_fragments()
        assert 0 < left < missing
        await trio.sleep(60)
        assert world.node.reporter.missing_fragments() == 0


@pytest.mark.slow
async def test_uploads_leave_the_machine_to_reads(autojump_clock: MockClock) -> None:
    dice = random.Random(4)
    async with World(suppliers=5, code=CODE, spool_limit=128 * MIB).running() as world:
        await world.write("read", dice.randbytes(12 * MIB))
        await world.sync()
        await world.node.drop_cache()
        world.node.suppliers.pacer.limit(up=16 * MIB, down=MIB)  # a block is at the suppliers in 0.9 s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.read, "read")  # takes 12 s
            await trio.sleep(1)
            await world.write("new", dice.randbytes(48 * MIB))
            before = world.node.uploads.sent_bytes
            await trio.sleep(9)
            assert 0 < world.node.uploads.sent_bytes - before <= 42 * MIB  # of 80
        await trio.sleep(6)
        assert not world.node.writer.dirty_changes()
