"""Forks: heads of one volume on two lines. What counts goes on, and nothing that was on the other line is lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.errors import ReadOnly
from bitdustfs.testing.world import World
from tests.engine.machines import CONTENT, LEASE_S, Machine, two, until
from tests.engine.recovered import recover

LAPTOPS = random.Random(3).randbytes(200_000)
DESKTOPS = random.Random(4).randbytes(100_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def versions(world: World) -> list[int]:
    """Of the heads that suppliers hold."""
    return [each.keeper.head_version(world.swarm.identity.owner) for each in world.swarm.suppliers]


@asynccontextmanager
async def forked(directory: Path, *, strays: int = 1) -> AsyncIterator[tuple[World, Machine, Machine]]:
    """A volume of which some suppliers hold a head of the laptop, and the others one of the desktop.

    The laptop could bring its last head to the first suppliers only. It is gone, and so are those at first; the
    desktop took over, and is mounted when it gets to see them.
    """
    async with two(directory) as (world, laptop, desktop):
        await fork(world, laptop, desktop, strays)
        yield world, laptop, desktop


async def fork(world: World, laptop: Machine, desktop: Machine, strays: int) -> None:
    numbers = range(1, strays + 1)
    async with laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        await laptop.write("both", b"as it was")
        assert await laptop.sync() == "safe"
        before = versions(world)
        for each in world.swarm.suppliers[strays:]:
            each.mute.refuses_heads = True
        await laptop.write("the laptop's", LAPTOPS)
        await laptop.write("both", b"of the laptop")
        await until(lambda: versions(world)[:strays] > before[:strays] and not node.files.dirty_lives())
        await until(lambda: len(set(versions(world)[:strays])) == 1)
        assert versions(world)[strays:] == before[strays:]
        await node.journal.durable()
        node.holding.has_let_go = True  # it dies, and tells nobody
        laptop.cut()
    laptop.heal()
    for each in world.swarm.suppliers[strays:]:
        each.mute.refuses_heads = False
    for number in numbers:
        world.swarm.cut(number)
    await recover(world, desktop.path, desktop.identity, friend=5)
    desktop.takes_over = True
    async with desktop.mounted(wait=False):
        await desktop.write("the desktop's", DESKTOPS)
        await desktop.write("both", b"of the desktop")
        assert await desktop.sync() == "safe"
    desktop.takes_over = False
    for number in numbers:
        world.swarm.heal(number)


@pytest.mark.slow
async def test_stray_head_at_one_supplier_stops_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted() as node:
        await until(lambda: node.publisher.others)
        await desktop.write("later", b"later")
        assert await desktop.sync() == "safe"
        await trio.sleep(LEASE_S)
        node.journal.admit_request()
        assert node.journal.refusal is None
        assert node.publisher.foreign is None


@pytest.mark.slow
async def test_writer_whose_heads_a_quorum_refuses_changes_nothing_any_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """F37."""
    async with forked(tmp_path) as (_world, laptop, _desktop), laptop.mounted() as node:  # without having asked
        await until(lambda: node.journal.refusal is not None)
        assert node.publisher.foreign is not None
        with pytest.raises(ReadOnly):
            await laptop.write("never", b"never")
        assert laptop.shows("the laptop's")


@pytest.mark.slow
async def test_nothing_is_let_go_while_another_line_may_need_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop), desktop.mounted() as node:
        await until(lambda: node.publisher.others)
        node.tree.unlink(1, b"file")  # type: ignore[arg-type]
        assert await desktop.sync() == "safe"
        held = [each.shelf.used(world.swarm.identity.owner) for each in world.swarm.suppliers]
        await trio.sleep(300)
        now = [each.shelf.used(world.swarm.identity.owner) for each in world.swarm.suppliers]
        assert all(after >= before for before, after in zip(held, now, strict=True))
