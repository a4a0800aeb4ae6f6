"""Heads beside ours as no honest machine makes them, and several of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World
from tests.engine.machines import LAPTOP, LEASE_S, Machine, until
from tests.engine.recovered import recover, stocks
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, forked, tree_of, versions
from tests.engine.test_forks_and_epochs import NEXT

THIRD = make_identity("third", owner="customer")
LAST = (1 << 62) - 1  # no version is higher


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def beside(world: World, who: Identity, **other: int) -> Head:
    """What the first supplier holds, as another machine may have signed it."""
    before = heads.parse(heads.split(stocks(world)[1].head)[0])
    version = other.get("version", before.version)
    return heads.sign(who, handle=SECRETS.handle, version=version, previous=before.previous, sealed=before.sealed)


def hold(world: World, number: int, head: Head) -> None:
    """Have a supplier hold a head, whoever would take it."""
    supplier = world.swarm.suppliers[number - 1]
    supplier.kill()
    supplier.contracts.save_head(world.swarm.identity.owner, head.raw)
    supplier.start()


@pytest.mark.slow
async def test_lines_that_are_chosen_about_at_once_are_all_gone_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        hold(world, 2, beside(world, THIRD))
        async with desktop.mounted() as node:
            await until(lambda: len(node.forks.all()) == 2)
            for snapshot, _fork in node.forks.all():
                await node.forks.resolve(snapshot.name)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            last = node.publisher.version
            await trio.sleep(LEASE_S)
            assert node.publisher.version == last
            assert node.releases.may_release()


@pytest.mark.slow
@pytest.mark.parametrize("is_revoked", [False, True])
async def test_line_with_the_last_version_ends_no_volume_when_it_is_gone_over(
    autojump_clock: MockClock, tmp_path: Path, is_revoked: bool
) -> None:
    """A machine that was stolen signed it, and a supplier shows it: a person chooses against it, and goes on."""
    async with forked(tmp_path) as (world, _laptop, machine):
        if is_revoked:
            world.swarm.cut(1)
            machine = Machine(world, tmp_path / "next", NEXT)
            await recover(world, machine.path, NEXT, friend=5)
            world.swarm.heal(1)
        hold(world, 1, beside(world, LAPTOP, version=LAST))
        async with machine.mounted() as node:
            generation = await brought_in(machine)
            ((snapshot, _fork),) = node.forks.all()
            await node.forks.resolve(snapshot.name)
            await machine.write("later", b"later")
            assert await machine.sync() == "safe"
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert node.publisher.version < heads.SKIPPED_MOST
            await until(node.releases.may_release)
            if is_revoked:
                await until(lambda: set(versions(world)) == {node.publisher.version})
