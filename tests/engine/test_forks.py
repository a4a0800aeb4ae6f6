"""Forks: heads of one volume on two lines. What counts goes on, and nothing that was on the other line is lost."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from shutil import copyfile

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_rules import RULES
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.attributes import Changes
from bitdustfs.engine.forks import LOOK_S
from bitdustfs.engine.node import Node
from bitdustfs.errors import FileError, ReadOnly
from bitdustfs.model import ROOT_INO, Cookie, Ino, SnapshotKind, short
from bitdustfs.testing.world import CALLER, World, read_whole
from tests.engine.machines import CONTENT, DESKTOP, LAPTOP, LEASE_S, Machine, two, until
from tests.engine.recovered import recover
from tests.engine.setback import fetch, look

LAPTOPS = random.Random(3).randbytes(200_000)
DESKTOPS = random.Random(4).randbytes(100_000)
OLD_TREE = {"file": CONTENT, "old": b"old", "both": b"as it was"}
DESKTOPS_TREE = {
    **OLD_TREE,
    "both": b"of the desktop",
    "the desktop's": DESKTOPS,
    "link to file": CONTENT,
    "a link to old": b"old",  # is looked at before "old" itself
}
LAPTOPS_TREE = {**OLD_TREE, "both": b"of the laptop", "the laptop's": LAPTOPS}
LAST_TREE = {**LAPTOPS_TREE, "the last": b"of the laptop"}


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def brought_in(machine: Machine) -> int:
    """Wait until a fork is shown; returns its generation."""
    await until(lambda: machine.node.forks.all())
    return machine.node.forks.all()[0][0].generation


async def tree_of(node: Node, generation: int) -> dict[str, bytes]:
    """The files of the root directory of a generation, with their contents; none is there twice."""
    names = node.past.listing(at(generation, ROOT_INO), Cookie(0), 1000)
    assert len(names) == len({name.name for name, _inode in names})
    return {name.name.decode(): await node.past.read(inode.ino, 0, inode.size) for name, inode in names}


def broken(catalog: SqliteCatalog) -> list[str]:
    """The rules of the catalog that are broken, but that suppliers of a world have numbers that nobody took."""
    rules = [rule for rule in RULES if rule.says != "the counter supplier is behind"]
    return [rule.says for rule in rules if catalog.connection.execute(rule.rows).fetchall()]


def versions(world: World) -> list[int]:
    """Of the heads that suppliers hold."""
    return [each.keeper.head_version(world.swarm.identity.owner) for each in world.swarm.suppliers]


@asynccontextmanager
async def forked(
    directory: Path,
    *,
    strays: int = 1,
    goes_on: bool = False,
    lost_at: Sequence[int] = (),
    snapshots: Sequence[str] = (),
) -> AsyncIterator[tuple[World, Machine, Machine]]:
    """A volume of which some suppliers hold a head of the laptop, and the others one of the desktop.

    The laptop could bring its last head to the first suppliers only. It is gone, and so are those at first; the
    desktop took over, and is mounted when it gets to see them.

    Args:
        goes_on: the laptop brought another head, to all of these but the first.
        lost_at: suppliers at which of what it brought at last nothing is left but the head.
        snapshots: that the desktop made, each with a file of this name that is nowhere else, the last change before
            each was to `dress`; `NAME before` is common.
    """
    async with two(directory) as (world, laptop, desktop):
        await fork(world, laptop, desktop, strays, goes_on=goes_on, lost_at=lost_at, snapshots=snapshots)
        yield world, laptop, desktop


async def learn_beside(world: World, machine: Machine) -> None:
    """What `recover --beside` does."""
    await recover(world, machine.path, machine.identity, friend=5, beside=True)


async def brought_to(world: World, machine: Machine, numbers: Sequence[int]) -> None:
    """Wait until these suppliers hold a head of all that is written now."""
    node = machine.node
    await until(lambda: not node.files.dirty_lives())
    node.journal.commit()
    change = machine.catalog.last_change

    def is_there() -> bool:
        newest, content = node.publisher.version, node.publisher.content
        is_all = content is not None and content.change >= change
        return is_all and all(versions(world)[number - 1] == newest for number in numbers)

    await until(is_there)


def ino_of(node: Node, name: bytes) -> Ino:
    inode = node.tree.lookup(ROOT_INO, name)
    assert inode is not None
    return inode.ino


async def dress(node: Node, name: str) -> None:
    """Give the root of the volume and a file attributes that go by a name."""
    for ino, mode in ((ROOT_INO, 0o700), (ino_of(node, b"file"), 0o600)):
        await node.attributes.set(ino, Changes(mode=mode | len(name)))
        node.attributes.set_xattr(ino, b"user.dressed", name.encode())


def dress_of(node: Node, generation: int) -> list[tuple[int, bytes | None]]:
    """Mode and attribute of what `dress` dresses, as a generation has it."""
    file = node.past.lookup(at(generation, ROOT_INO), b"file")
    inodes = [node.past.attributes(at(generation, ROOT_INO)), file]
    return [(inode.mode & 0o7777, dict(node.past.xattrs(inode.ino)).get(b"user.dressed")) for inode in inodes]


def fragments(world: World) -> set[tuple[int, bytes, bytes]]:
    """What suppliers hold: number, owner and name."""
    owner = world.swarm.identity.owner
    return {
        (number, bytes(owner), bytes(name))
        for number, each in enumerate(world.swarm.suppliers, start=1)
        for name, _length in each.memory_shelf.names(owner, b"", 10_000)
    }


async def fork(
    world: World,
    laptop: Machine,
    desktop: Machine,
    strays: int,
    *,
    goes_on: bool = False,
    lost_at: Sequence[int] = (),
    snapshots: Sequence[str] = (),
) -> None:
    numbers = range(1, strays + 1)
    async with laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        await laptop.write("old", b"old")
        await laptop.write("both", b"as it was")
        for wanted in snapshots:
            await node.snapshots.create(f"{wanted} before", 60)
        assert await laptop.sync() == "safe"
        before, held = versions(world), fragments(world)
        for each in world.swarm.suppliers[strays:]:
            each.mute.refuses_heads = True
        await laptop.write("the laptop's", LAPTOPS)
        await laptop.write("both", b"of the laptop")
        await brought_to(world, laptop, numbers)
        if goes_on:
            first = versions(world)[0]
            world.swarm.suppliers[0].mute.refuses_heads = True
            await laptop.write("the last", b"of the laptop")
            await brought_to(world, laptop, numbers[1:])
            assert versions(world)[0] == first
        assert versions(world)[strays:] == before[strays:]
        await node.journal.durable()
        node.holding.has_let_go = True  # it dies, and tells nobody
        laptop.cut()
    laptop.heal()
    for each in world.swarm.suppliers:
        each.mute.refuses_heads = False
    for number, owner, name in fragments(world) - held:
        world.swarm.suppliers[number - 1].conduct.dropped |= {(owner, name)} if number in lost_at else set()
    for number in numbers:
        world.swarm.cut(number)
    await learn_beside(world, desktop)
    desktop.takes_over = True
    async with desktop.mounted(wait=False):
        await desktop.write("the desktop's", DESKTOPS)
        await desktop.write("both", b"of the desktop")
        for wanted in snapshots:
            desktop.wall.move_s(1)
            await desktop.write(wanted, b"in a snapshot")
            await dress(desktop.node, wanted)
            await desktop.node.snapshots.create(wanted, 60)
            desktop.node.tree.unlink(ROOT_INO, wanted.encode())
        desktop.node.tree.link(ino_of(desktop.node, b"file"), ROOT_INO, b"link to file")
        desktop.node.tree.link(ino_of(desktop.node, b"old"), ROOT_INO, b"a link to old")
        assert await desktop.sync() == ("safe" if strays == 1 else "degraded")
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
async def test_fork_is_brought_in_as_soon_as_a_supplier_shows_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        world.swarm.cut(1)
        async with desktop.mounted(wait=False) as node:
            await trio.sleep(LOOK_S + 3)  # a look that was just before comes again late
            assert node.forks.all() == []
            world.swarm.heal(1)
            await until(lambda: node.publisher.others)
            began = trio.current_time()
            await until(node.forks.all)
            assert trio.current_time() - began < 5


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
            await until(lambda: node.forks.has_everything)
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
async def test_fork_that_did_not_come_leaves_nothing_and_comes_whole_later(
    autojump_clock: MockClock, tmp_path: Path, step: str
) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop):
        async with desktop.mounted() as node:
            reached = trio.Event()

            def on_step(at: str) -> None:
                if at == step:
                    node.writing.cancel()
                    reached.set()

            node.forks.on_step = on_step
            await reached.wait()
            await trio.sleep(1)
            assert list(tmp_path.glob("desktop.beside*")) == []
            assert SnapshotKind.COMING not in kinds(desktop.catalog)
        await comes_whole(desktop)


async def comes_whole(machine: Machine) -> None:
    async with machine.mounted() as node:
        generation = await brought_in(machine)
        assert await tree_of(node, generation) == LAPTOPS_TREE
        await until(lambda: len(machine.catalog.snapshots()) == 1)
        assert not broken(machine.catalog)


def kinds(catalog: SqliteCatalog) -> list[SnapshotKind]:
    """Of all snapshots that are not gone."""
    return [each.kind for each in catalog.snapshots() if not each.is_gone]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 1])
async def test_fork_of_which_a_crash_left_a_half_is_shown_by_nobody_and_comes_whole_later(
    autojump_clock: MockClock, tmp_path: Path, share: float
) -> None:
    """Before each operation from the first to the last one the disk is looked at; it is killed at some of them."""
    async with forked(tmp_path) as (world, _laptop, desktop):
        disks: list[Path] = []

        def is_writer() -> bool:
            if SnapshotKind.COMING in kinds(desktop.catalog):
                desktop.cut()
                node.holding.has_let_go = True  # it dies, and tells nobody
                node.journal.commit_now()
                disks.append(tmp_path / f"disk {len(disks)}")
                for tail in ("", "-wal"):
                    copyfile(f"{desktop.path}{tail}", f"{disks[-1]}{tail}")
            return True

        async with desktop.mounted() as node:
            node.forks.is_writer = is_writer
            await until(node.forks.all)
        desktop.heal()
        assert len(disks) > 5
        for each in disks:
            with closing(SqliteCatalog(each)) as catalog:
                assert kinds(catalog) == [SnapshotKind.COMING]
                assert not broken(catalog)
        desktop.path = disks[round(share * (len(disks) - 1))]
        world.swarm.cut(1)
        async with desktop.mounted(wait=False):
            await until(lambda: kinds(desktop.catalog) == [])
        world.swarm.heal(1)
        await comes_whole(desktop)


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
