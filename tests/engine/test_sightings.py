"""What suppliers showed beside ours is known after a restart, also while they are away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copyfile

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine import sightings
from bitdustfs.errors import Unavailable
from bitdustfs.model import ROOT_INO, SupplierNo
from bitdustfs.testing.world import World
from tests.engine.machines import DESKTOP, LAPTOP, LEASE_S, Machine, until
from tests.engine.recovered import stocks
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, forked, fragments, learn_beside, tree_of
from tests.engine.test_forks_on_the_way import give_up_first

FIRST = SupplierNo(1)
GONE = range(1, 6)  # suppliers at which nothing is left of the other line but its head


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def killed_now(machine: Machine) -> Machine:
    """A machine with the disk that a `kill -9` leaves now. The one that is mounted still has no say any more."""
    path = machine.path.with_name("killed")
    for tail in ("", "-wal"):
        copyfile(f"{machine.path}{tail}", f"{path}{tail}")
    killed = Machine(machine.world, path, machine.identity)
    killed.spool, killed.wall = machine.spool, machine.wall
    machine.node.holding.has_let_go = True
    machine.cut()
    return killed


async def seen_and_not_brought_in(world: World, machine: Machine) -> None:
    """One life, in which the first supplier shows the other line, and is gone before that can be fetched."""
    world.swarm.heal(1)
    async with machine.mounted() as node:

        def refuse(_step: str) -> None:
            raise Unavailable(what="not now")

        node.forks.on_step = refuse
        await until(lambda: node.forks.trouble)
    world.swarm.cut(1)


@pytest.mark.slow
async def test_nothing_is_let_go_after_a_kill_although_who_showed_the_other_line_is_away(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path, lost_at=GONE) as (world, _laptop, desktop):
        async with desktop.mounted() as node:
            await until(lambda: node.forks.trouble)
            killed = killed_now(desktop)
        desktop.heal()
        world.swarm.cut(1)
        async with killed.mounted(wait=False) as node:
            held = fragments(world)
            node.tree.unlink(ROOT_INO, b"the desktop's")
            assert await killed.sync() == "safe"
            await trio.sleep(2 * LEASE_S)
            assert held <= fragments(world)
            assert not node.releases.may_release()
            assert any("nothing is let go at suppliers meanwhile" in line for line in node.forks.lines())
            give_up_first(killed)
            await until(node.releases.may_release)
            await until(lambda: not sightings.seen(killed.catalog))


@pytest.mark.slow
async def test_line_that_was_seen_before_the_restart_comes_in_when_its_supplier_is_back_and_holds_nothing_up_then(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        await seen_and_not_brought_in(world, desktop)
        async with desktop.mounted(wait=False) as node:
            await trio.sleep(LEASE_S)
            assert not node.releases.may_release()
            assert node.publisher.foreign is None
            world.swarm.heal(1)
            assert await tree_of(node, await brought_in(desktop)) == LAPTOPS_TREE
            assert await desktop.sync() == "safe"
            await until(lambda: not sightings.seen(desktop.catalog))
        world.swarm.cut(1)
        async with desktop.mounted(wait=False) as node:
            await until(node.releases.may_release)


@pytest.mark.slow
async def test_line_that_a_person_let_be_is_not_known_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path, lost_at=GONE) as (world, _laptop, desktop):
        async with desktop.mounted() as node:
            await until(node.forks.unreadable)
            world.swarm.cut(1)
            await node.forks.let_be(next(iter(node.forks.unreadable())))
            killed = killed_now(desktop)
        desktop.heal()
        async with killed.mounted(wait=False) as node:
            await until(node.releases.may_release)
            assert node.forks.lines() == []
            await until(lambda: not sightings.seen(killed.catalog))


@pytest.mark.slow
async def test_supplier_that_shows_our_line_after_the_restart_holds_nothing_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Its disk was set back."""
    async with forked(tmp_path, lost_at=GONE) as (world, _laptop, desktop):
        await seen_and_not_brought_in(world, desktop)
        first, second = world.swarm.suppliers[:2]
        owner = world.swarm.identity.owner
        first.kill()
        first.contracts.save_head(owner, second.contracts.heads()[owner])
        first.start()
        world.swarm.heal(1)
        async with desktop.mounted() as node:
            await until(node.releases.may_release)
            await until(lambda: not sightings.seen(desktop.catalog))


@pytest.mark.slow
async def test_catalog_that_takes_the_place_of_another_one_knows_what_that_saw(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        await seen_and_not_brought_in(world, desktop)
        adopted = Machine(world, tmp_path / "adopted", DESKTOP)
        await learn_beside(world, adopted)
        with closing(SqliteCatalog(desktop.path)) as old, closing(SqliteCatalog(adopted.path)) as new:
            (seen,) = sightings.seen(old).values()
            assert seen.signer.node == LAPTOP.node
            assert not sightings.seen(new)
            sightings.carry_over(old, new)
            new.commit()
            assert sightings.seen(new) == {FIRST: seen}
        async with adopted.mounted(wait=False) as node:
            await trio.sleep(LEASE_S)
            assert not node.releases.may_release()


async def test_one_head_is_noted_of_a_supplier_and_none_where_the_row_is_damaged_or_of_somebody_else(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(suppliers=2).running() as world:
        for content in (b"one", b"two"):
            await world.write("file", content)
            assert await world.sync() == "safe"
    raw, _links = heads.split(stocks(world)[1].head)
    head, catalog = heads.parse(raw), world.catalog
    sightings.note(catalog, FIRST, head)
    assert sightings.is_noted(catalog, FIRST, head)
    assert sightings.seen(catalog) == {FIRST: head}
    assert sightings.settled(catalog, lambda each: each == head) == [FIRST]
    value = catalog.local_value("other head 1")
    assert value is not None
    catalog.put_local_value("other head 2", value)  # with the node id of the first
    assert sightings.seen(catalog) == {FIRST: head}
    catalog.put_local_value("other head 1", value[:-1])
    assert sightings.seen(catalog) == {}
    assert "damaged" in caplog.text
    sightings.note(catalog, FIRST, None)
    assert sightings.is_noted(catalog, FIRST, None)
