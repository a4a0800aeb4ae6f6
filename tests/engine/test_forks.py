"""Forks: heads of one volume on two lines. What counts goes on, and nothing that was on the other line is lost."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_rules import RULES
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.engine.orphans import leave_orphans
from bitdustfs.errors import FileError, ReadOnly
from bitdustfs.model import ROOT_INO, Cookie, short
from bitdustfs.testing.world import CALLER, World, read_whole
from tests.engine.machines import CONTENT, DESKTOP, LAPTOP, LEASE_S, Machine, two, until
from tests.engine.recovered import recover
from tests.engine.setback import fetch, look

LAPTOPS = random.Random(3).randbytes(200_000)
DESKTOPS = random.Random(4).randbytes(100_000)
DESKTOPS_TREE = {"file": CONTENT, "both": b"of the desktop", "the desktop's": DESKTOPS}
LAPTOPS_TREE = {"file": CONTENT, "both": b"of the laptop", "the laptop's": LAPTOPS}


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def brought_in(machine: Machine) -> int:
    """Wait until a fork is shown; returns its generation."""
    await until(lambda: machine.node.forks.all())
    return machine.node.forks.all()[0][0].generation


async def tree_of(node: Node, generation: int) -> dict[str, bytes]:
    """The files of the root directory of a generation, with their contents."""
    names = node.past.listing(at(generation, ROOT_INO), Cookie(0), 1000)
    return {name.name.decode(): await node.past.read(inode.ino, 0, inode.size) for name, inode in names}


def broken(catalog: SqliteCatalog) -> list[str]:
    """The rules of the catalog that are broken, but that suppliers of a world have numbers that nobody took."""
    rules = [rule for rule in RULES if rule.says != "the counter supplier is behind"]
    return [rule.says for rule in rules if catalog.connection.execute(rule.rows).fetchall()]


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


async def learn_beside(world: World, machine: Machine) -> None:
    """What `recover --beside` does."""
    await recover(world, machine.path, machine.identity, friend=5)
    with closing(SqliteCatalog(machine.path)) as catalog:
        leave_orphans(catalog)
        catalog.commit()


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
    await learn_beside(world, desktop)
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


@pytest.mark.slow
async def test_fork_is_shown_whole_and_read_only_and_what_it_had_is_as_safe_as_the_rest(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        async with desktop.mounted() as node:
            generation = await brought_in(desktop)
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert await read_whole(node, "both") == b"of the desktop"
            assert not broken(desktop.catalog)
            assert node.forks.has_everything
            with pytest.raises(FileError):
                node.tree.mknod(at(generation, ROOT_INO), b"new", stat.S_IFREG | 0o644, CALLER)
            assert await desktop.sync() == "safe"
        other = Machine(world, tmp_path / "other", DESKTOP)
        await learn_beside(world, other)
        async with other.mounted() as node:
            assert [each.name for each, _fork in node.forks.all()] == [desktop_saw := node.forks.all()[0][0].name]
            assert desktop_saw.endswith(short(LAPTOP.node))
            assert await tree_of(node, generation) == LAPTOPS_TREE


async def resolved(world: World, machine: Machine) -> None:
    """Choose what is here, and wait until all suppliers hold it."""
    (snapshot, _fork) = machine.node.forks.all()[0]
    assert (await machine.node.forks.resolve(snapshot.name)).name == snapshot.name
    assert machine.node.forks.all() == []
    assert [each.name for each in machine.node.snapshots.all()] == [snapshot.name]
    await machine.write("after it", b"after it")
    await until(lambda: set(versions(world)) == {machine.node.publisher.version})
    assert await machine.sync() == "safe"
    assert not machine.node.publisher.others


@pytest.mark.slow
async def test_chosen_line_goes_on_at_all_suppliers_and_the_other_is_a_snapshot(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, laptop, desktop):
        async with desktop.mounted() as node:
            generation = await brought_in(desktop)
            await resolved(world, desktop)
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert await read_whole(node, "both") == b"of the desktop"
        with closing(SqliteCatalog(laptop.path)) as old:  # the laptop goes on with that, and puts nothing aside
            found = await look(world, old, LAPTOP)
            assert found is not None
            assert (await fetch(world, old, found, tmp_path / "new")).entries == ()
        laptop.path = tmp_path / "new"
        async with laptop.mounted() as node:
            await trio.sleep(60)
            assert node.journal.refusal is None
            assert await tree_of(node, generation) == LAPTOPS_TREE


@pytest.mark.slow
async def test_machine_that_was_refused_goes_on_when_a_person_chooses_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, laptop, _desktop), laptop.mounted() as node:
        await until(lambda: node.journal.refusal is not None)
        generation = await brought_in(laptop)
        assert await tree_of(node, generation) == DESKTOPS_TREE
        await resolved(world, laptop)
        assert await tree_of(node, generation) == DESKTOPS_TREE
        assert await read_whole(node, "both") == b"of the laptop"
        assert not broken(laptop.catalog)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fetching", "grafting", "keeping"])
async def test_fork_that_came_half_is_shown_by_nobody_and_comes_whole_later(
    autojump_clock: MockClock, tmp_path: Path, step: str
) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop):
        async with desktop.mounted() as node:
            reached = trio.Event()
            node.forks.on_step = lambda at: reached.set() if at == step else None
            await reached.wait()
        async with desktop.mounted() as node:
            generation = await brought_in(desktop)
            assert await tree_of(node, generation) == LAPTOPS_TREE
            await until(lambda: len(desktop.catalog.snapshots()) == 1)
            assert not broken(desktop.catalog)


@pytest.mark.slow
async def test_fork_that_was_brought_in_is_nothing_that_was_done_here(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The refused machine takes the line that counts at its next mount: only its own changes are put aside."""
    async with forked(tmp_path) as (world, laptop, _desktop):
        async with laptop.mounted():
            await brought_in(laptop)
        with closing(SqliteCatalog(laptop.path)) as old:
            found = await look(world, old, LAPTOP)
            assert found is not None
            plan = await fetch(world, old, found, tmp_path / "new")
        assert [entry.paths for entry in plan.entries] == [(b"both",), (b"the laptop's",)]
        assert plan.notes == ()
