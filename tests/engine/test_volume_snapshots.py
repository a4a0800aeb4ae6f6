"""Snapshots of the volume in a whole world: what they show, that nothing of them is let go, and how they go."""

from __future__ import annotations

import errno
import random
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.past import FIRST_PAST, SNAPSHOTS_INO
from bitdustfs.core.placement import usable_bytes
from bitdustfs.core.thinning import USUAL, Keeping
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.past_tree import SNAPSHOTS_NAME
from bitdustfs.engine.tree import EXCHANGE
from bitdustfs.errors import AlreadyThere, BadRequest, ContractsFull, FileError, NotFound
from bitdustfs.model import BLOCK_CHUNKS, CHUNK_BYTES, ROOT_INO, Code, Cookie, Ino, Inode, SnapshotKind
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, World
from tests.engine.recovered import recover

CODE = Code(2, 4)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def under(world: World, snapshot: str, path: str = "") -> Inode:
    """What lies at a path in a snapshot."""
    inode = world.node.past.lookup(SNAPSHOTS_INO, snapshot.encode())
    for part in filter(None, path.split("/")):
        inode = world.node.past.lookup(inode.ino, part.encode())
    return inode


async def content(world: World, snapshot: str, path: str) -> bytes:
    inode = under(world, snapshot, path)
    got = bytearray()
    while more := await world.node.past.read(inode.ino, len(got), 100_000):
        got += more
    assert len(got) == inode.size
    return bytes(got)


def listed(world: World, ino: Ino) -> list[bytes]:
    return [name.name for name, _ in world.node.past.listing(ino, Cookie(0), 1000)]


def remove(world: World, name: str) -> None:
    world.node.tree.unlink(ROOT_INO, name.encode())


async def create(world: World, name: str, *, wait_s: float = 60.0) -> int:
    return (await world.node.snapshots.create(name, wait_s))[1]


async def told(world: World, one: str | None, two: str | None) -> list[str]:
    """What is different, as `diff` prints it."""
    found = world.node.snapshots.differences(one, two)
    return [f"{each.change.value} {each.path.decode()}" async for each in found]


async def settle(world: World) -> None:
    """Let everything happen that happens by itself."""
    await world.sync()
    await trio.sleep(900)
    await world.sync()
    await trio.sleep(900)


async def test_deleted_and_overwritten_files_are_read_from_suppliers_as_they_were(autojump_clock: MockClock) -> None:
    old, new = random.Random(1).randbytes(700_000), random.Random(2).randbytes(300_000)
    async with World(code=CODE).running() as world:
        await world.write("changed", old)
        await world.write("gone", old[:5000])
        assert await create(world, "yesterday") == 0
        await world.node.files.truncate(await world.write("changed", new), len(new))
        remove(world, "gone")
        await settle(world)
        await world.node.drop_cache()
        assert await content(world, "yesterday", "changed") == old
        assert await content(world, "yesterday", "gone") == old[:5000]
        assert await world.read("changed") == new
        assert listed(world, SNAPSHOTS_INO) == [b"yesterday"]
        assert listed(world, under(world, "yesterday").ino) == [b"changed", b"gone"]


async def test_what_was_just_written_is_sent_first_and_is_in_the_snapshot(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("new", b"just now")
        assert await create(world, "s") == 0
        assert await content(world, "s", "new") == b"just now"


async def test_what_cannot_be_sent_in_time_is_as_it_was_before_and_is_counted(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("old", b"first")
        await world.sync()
        for supplier in world.swarm.suppliers[:4]:
            supplier.kill()
        await world.write("old", b"second")
        await world.write("new", b"never sent")
        assert await create(world, "s", wait_s=5.0) == 2
        for supplier in world.swarm.suppliers[:4]:
            supplier.start()
        await settle(world)
        assert await content(world, "s", "old") == b"first"
        assert listed(world, under(world, "s").ino) == [b"old"]


async def test_snapshot_is_only_read_and_its_name_is_taken(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        ino = await world.write("file", b"x")
        world.node.tree.mkdir(ROOT_INO, b"dir", 0o755, CALLER)
        await create(world, "s")
        tree, root = world.node.tree, under(world, "s").ino
        there = under(world, "s", "dir").ino
        assert root >= FIRST_PAST
        changes: list[Callable[[], object]] = [
            lambda: tree.mknod(there, b"n", stat.S_IFREG | 0o644, CALLER),
            lambda: tree.mkdir(root, b"n", 0o755, CALLER),
            lambda: tree.symlink(root, b"n", b"t", CALLER),
            lambda: tree.link(ino, root, b"n"),
            lambda: tree.mkdir(ROOT_INO, SNAPSHOTS_NAME, 0o755, CALLER),
            lambda: tree.rmdir(ROOT_INO, SNAPSHOTS_NAME),
            lambda: tree.unlink(ROOT_INO, SNAPSHOTS_NAME),
        ]
        for change in changes:
            with pytest.raises(FileError) as refused:
                change()
            assert refused.value.errno == errno.EROFS
        for flags in (0, EXCHANGE):
            for new_parent, new_name in ((root, b"file"), (root, b"n"), (ROOT_INO, SNAPSHOTS_NAME)):
                with pytest.raises(FileError) as refused:
                    await tree.rename(ROOT_INO, b"file", new_parent, new_name, flags)
                assert refused.value.errno == errno.EROFS
        assert listed(world, root) == [b"file", b"dir"]


async def test_own_directory_that_has_the_name_already_stays_and_can_be_renamed(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        tree, catalog = world.node.tree, world.catalog
        own = tree.mkdir(ROOT_INO, b"own", 0o755, CALLER).ino
        catalog.drop_name(ROOT_INO, b"own")
        catalog.put_name(ROOT_INO, SNAPSHOTS_NAME, own)  # as it was before there were snapshots
        tree.mknod(own, b"inside", stat.S_IFREG | 0o644, CALLER)
        await create(world, "s", wait_s=0.0)
        found = tree.lookup(ROOT_INO, SNAPSHOTS_NAME)
        assert found is not None and found.ino == own
        hidden = [each for each in (await world.status())["trouble"] if "hides the snapshots" in each]
        assert len(hidden) == 1
        await tree.rename(ROOT_INO, SNAPSHOTS_NAME, ROOT_INO, b"mine")
        assert tree.lookup(ROOT_INO, SNAPSHOTS_NAME) is None
        assert not any("hides" in each for each in (await world.status())["trouble"])
        with pytest.raises(FileError):
            await tree.rename(ROOT_INO, b"mine", ROOT_INO, SNAPSHOTS_NAME)


async def test_deleted_snapshot_is_stale_at_once_and_its_blocks_are_let_go(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("stays", random.Random(1).randbytes(300_000))
        await settle(world)
        await world.write("goes", random.Random(2).randbytes(900_000))
        await create(world, "s")
        remove(world, "goes")
        await settle(world)
        inode = under(world, "s", "goes")
        assert world.node.snapshots.held.total == 900_000
        generation = world.node.snapshots.find("s").generation
        assert world.node.snapshots.held.runs == {(generation, generation): 900_000}
        await world.node.snapshots.delete(["s"])
        with pytest.raises(FileError) as stale:
            await world.node.past.read(inode.ino, 0, 10)
        assert stale.value.errno == errno.ESTALE
        await settle(world)
        assert list(world.catalog.snapshots()) == []
        assert world.node.snapshots.held.total == 0
        assert world.catalog.count_blocks() == 1


async def test_snapshot_that_comes_while_another_leaves_rows_out_leaves_its_own_out_too(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(code=CODE, suppliers=4).running() as world, trio.open_nursery() as nursery:
        told: list[int] = []
        monkeypatch.setattr(
            world.catalog, "leave_out", lambda generation, _ino, _first, _last: told.append(generation)
        )
        snapshots = world.node.snapshots
        snapshots._left_out.append((5, Ino(70), 0, 1500))
        nursery.start_soon(snapshots._leave_out)
        while not told:
            await trio.lowlevel.checkpoint()
        snapshots._left_out.append((6, Ino(70), 0, 1500))
        while snapshots._left_out:
            await trio.sleep(1)
        assert set(told) == {5, 6}


@pytest.mark.slow
@pytest.mark.parametrize("is_published", [False, True])
async def test_snapshot_holds_nothing_of_a_version_that_was_still_to_come(
    is_published: bool, autojump_clock: MockClock
) -> None:
    dice = random.Random(4)
    first = dice.randbytes(300_000) if is_published else b""
    async with World(code=CODE, suppliers=4).running() as world:
        files, ino = world.node.files, world.node.tree.mknod(ROOT_INO, b"stream", 0o100644, CALLER).ino
        world.node.tree.lives.opened(ino)
        if is_published:
            await files.write(ino, 0, first)
            assert await world.sync() == "safe"
        await files.write(ino, 2 * CHUNK_BYTES, dice.randbytes(2 * BLOCK_CHUNKS * CHUNK_BYTES))
        while world.catalog.map_end(ino) < BLOCK_CHUNKS:
            await trio.sleep(0.01)
        assert await create(world, "s", wait_s=0) == 1
        assert await world.sync() == "safe"
        world.node.tree.lives.closed(ino)
        remove(world, "stream")
        if is_published:
            assert await content(world, "s", "stream") == first
        else:
            assert listed(world, under(world, "s").ino) == []
        assert (await world.node.snapshots.measure()).total == len(first)


async def test_what_snapshots_hold_is_told_and_counts_as_used(autojump_clock: MockClock) -> None:
    async with World(code=CODE, contract_bytes=100 << 20).running() as world:
        await world.write("stays", bytes(range(256)) * 1000)
        await world.write("goes", random.Random(1).randbytes(900_000))
        await create(world, "s")
        remove(world, "goes")
        await trio.sleep(40)
        status, space = await world.status(), world.node.space()
        assert (status["snapshots"], status["snapshot_bytes"], status["bytes"]) == (1, 900_000, 256_000)
        assert space.total_bytes - space.free_bytes == 1_156_000
        free = [row.capacity_bytes - row.used_bytes for row in world.catalog.suppliers()]
        assert space.free_bytes == usable_bytes(free, CODE)
        await world.node.snapshots.delete(["s"])
        await trio.sleep(40)
        status, space = await world.status(), world.node.space()
        assert (status["snapshots"], status["snapshot_bytes"]) == (0, 0)
        assert space.total_bytes - space.free_bytes == 256_000


async def test_full_volume_says_which_snapshots_to_delete_and_that_makes_room(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bitdustfs.engine.volume_snapshots")
    world = World(suppliers=4, code=CODE, contract_bytes=12 << 20, spool_limit=8 << 20)
    async with world.running():
        for number in range(2):
            await world.write(f"large{number}", random.Random(number).randbytes(7_500_000))
            await create(world, f"s{number}")
            await create(world, f"t{number}")
            remove(world, f"large{number}")
        await trio.sleep(40)
        with pytest.raises(ContractsFull) as full:
            for number in range(20):
                await world.write(f"more{number}", random.Random(number + 9).randbytes(1_500_000))
        advised = "delete 2 snapshots (`bitdustfs snapshot delete s0 --to t0`): that would free 7.15 MiB"
        assert advised in str(full.value)
        assert any(advised in sentence for sentence in (await world.status())["trouble"])
        await trio.sleep(60)
        assert caplog.text.count(advised) == 1
        assert [each.name for each in world.node.snapshots.all()] == ["s0", "t0", "s1", "t1"]  # none went by itself
        assert {each.name for each in await world.node.snapshots.delete(["s0"], "t0")} == {"s0", "t0"}
        await trio.sleep(300)
        assert (await world.status())["files_local"]  # what they let go of lies in the trash
        assert len(re.findall("chunks could not be placed now", caplog.text)) < 40
        world.swarm.wall.suspend_s(8 * 86_400)
        await trio.sleep(300)
        assert await world.sync() == "safe"
        await world.node.drop_cache()
        assert await content(world, "s1", "large1") == random.Random(1).randbytes(7_500_000)


async def test_several_snapshots_are_deleted_together_or_none(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        for name in "abcde":
            await create(world, name, wait_s=0.0)
        for names, to, error in (["a", "x"], None, NotFound), (["b"], "x", NotFound), (["c"], "b", BadRequest):
            with pytest.raises(error):
                await world.node.snapshots.delete(names, to)
        assert [each.name for each in world.node.snapshots.all()] == list("abcde")
        await world.node.snapshots.delete(["b", "e"], "c")
        assert [each.name for each in world.node.snapshots.all()] == list("ad")


async def test_compaction_keeps_what_only_a_snapshot_names(autojump_clock: MockClock) -> None:
    contents = {f"f{number}": random.Random(number).randbytes(200_000) for number in range(8)}
    async with World(code=CODE).running() as world:
        for name, what in contents.items():
            await world.write(name, what)
        await create(world, "s")
        for name in list(contents)[1:]:
            remove(world, name)
        await world.write("other", random.Random(99).randbytes(200_000))
        await settle(world)
        await world.node.drop_cache()
        assert {name: await content(world, "s", name) for name in contents} == contents


async def test_names_of_snapshots_are_refused_where_they_cannot_be(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await create(world, "s")
        with pytest.raises(AlreadyThere):
            await create(world, "s")
        for name in ("", ".", "..", "a/b", "x" * 256, "a\nb", "now", "\ud800"):
            with pytest.raises(BadRequest):
                await create(world, name)
        with pytest.raises(NotFound):
            await world.node.snapshots.delete(["t"])
        made, _ = await world.node.snapshots.create(None, 0.0)
        again, _ = await world.node.snapshots.create(None, 0.0)
        assert len({made.name, again.name, "s"}) == 3


async def test_comparing_with_a_snapshot_ends_when_it_is_deleted(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        directory = world.node.tree.mkdir(ROOT_INO, b"directory", 0o755, CALLER)
        world.node.tree.mkdir(directory.ino, b"gone", 0o755, CALLER)
        await create(world, "old")
        world.node.tree.rmdir(directory.ino, b"gone")
        await world.write("new", b"content")
        told = world.node.snapshots.differences("old", None)
        assert (await anext(told)).path == b"new"
        await world.node.snapshots.delete(["old"])
        await settle(world)
        with pytest.raises(NotFound, match="deleted meanwhile"):
            print([each.path async for each in told])  # nothing: as if nothing had gone


async def test_differences_are_told_name_by_name(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        directory = world.node.tree.mkdir(ROOT_INO, b"d", 0o755, CALLER).ino
        for name in ("same", "changed", "gone", "mode"):
            await world.write(name, name.encode())
        await create(world, "one")
        await world.write("changed", b"CHANGED")
        remove(world, "gone")
        mode = world.node.tree.lookup(ROOT_INO, b"mode")
        assert mode is not None
        world.swarm.wall.move_s(1)
        world.node.attributes.set_xattr(mode.ino, b"user.colour", b"red")
        world.node.tree.mkdir(directory, b"e", 0o755, CALLER)
        await create(world, "two")
        remove(world, "same")
        await world.sync()

        assert await told(world, "one", "two") == ["M changed", "- gone", "A mode", "+ d/e/"]
        assert await told(world, "two", "one") == ["M changed", "+ gone", "A mode", "- d/e/"]
        assert await told(world, "two", None) == ["- same"]
        assert await told(world, "one", "one") == []


async def test_what_was_written_and_not_sent_yet_is_told_as_different(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("old", b"first")
        await world.write("same", b"same")
        await create(world, "s")
        for supplier in world.swarm.suppliers[:4]:
            supplier.kill()
        await world.write("old", b"second")
        assert await told(world, "s", None) == ["M old"]
        assert await told(world, None, "s") == ["M old"]
        assert await told(world, "s", "s") == []


def thinned(keeping: Keeping) -> World:
    world = World(code=CODE)
    world.options = replace(world.options, snapshots=keeping)
    return world


async def test_snapshots_are_made_each_hour_in_which_something_changed_and_thinned(autojump_clock: MockClock) -> None:
    async with thinned(Keeping(hourly=3, daily=2, weekly=0, monthly=0)).running() as world:

        async def hour(change: str | None) -> None:
            if change is not None:
                await world.write(change, change.encode())
                await world.sync()
            world.swarm.wall.move_s(3600)
            await trio.sleep(60)

        await world.write("first", b"x")
        await world.sync()
        await trio.sleep(60)
        assert len(world.node.snapshots.all()) == 1
        await world.node.snapshots.create("mine", 0.0)
        for number in range(6):
            await hour(f"f{number}")
            await hour(None)
        own = [each for each in world.node.snapshots.all() if each.kind is SnapshotKind.BY_ITSELF]
        assert len(own) == 3 or (len(own) == 4 and len({each.made_ns // (86_400 * 10**9) for each in own}) == 2)
        assert world.node.snapshots.find("mine").kind is SnapshotKind.BY_PERSON
        assert await content(world, own[-1].name, "f5") == b"f5"
        assert set(listed(world, under(world, own[-2].name).ino)) == {b"first", *(b"f%d" % n for n in range(5))}
        for number in range(10):
            world.swarm.wall.move_s(86_400)
            await hour(f"d{number}")
        days = [each.made_ns for each in world.node.snapshots.all() if each.kind is SnapshotKind.BY_ITSELF]
        assert len(days) == 3  # of the last three hours with changes, which the last two days have too
        await trio.sleep(600)
        assert not any(each.is_gone for each in world.catalog.snapshots())


async def test_volume_that_nobody_changes_has_no_new_snapshot_and_loses_none(autojump_clock: MockClock) -> None:
    async with thinned(USUAL).running() as world:
        await trio.sleep(60)
        assert not world.node.snapshots.all()  # of nothing
        for number in range(4):
            await world.write("file", b"%d" % number)
            await world.sync()
            world.swarm.wall.move_s(3600)
            await trio.sleep(60)
        before, change = world.node.snapshots.all(), world.catalog.last_change
        assert len(before) == 4
        for _ in range(20):
            assert await world.read("file") == b"3"
            world.swarm.wall.move_s(2 * 86_400)
            await trio.sleep(40)
        assert world.node.snapshots.all() == before
        assert world.catalog.last_change == change
        assert [await content(world, each.name, "file") for each in before] == [b"0", b"1", b"2", b"3"]


async def test_clock_that_was_far_ahead_keeps_no_snapshot_from_staying(autojump_clock: MockClock) -> None:
    async with thinned(Keeping(hourly=2, daily=0, weekly=0, monthly=0)).running() as world:
        for number, move_s in enumerate((0, 10**9, 3600, 3600, -(10**9), 3600)):
            world.swarm.wall.move_s(move_s)
            await world.write(f"f{number}", b"x")
            await world.sync()
            await trio.sleep(120)
        newest = world.node.snapshots.all()[-1]
        assert abs(newest.made_ns - world.swarm.wall.now_ns()) < 300 * 10**9
        assert newest.generation == world.catalog.generation - 1 == 6  # one for each hour, and none in vain
        assert await content(world, newest.name, "f5") == b"x"


async def test_nothing_is_made_by_itself_where_nothing_is_to_be_kept(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("f", b"x")
        await world.sync()
        world.swarm.wall.move_s(3 * 86_400)
        await trio.sleep(600)
        assert list(world.catalog.snapshots()) == []
        assert world.catalog.generation == 1


async def test_what_was_made_by_itself_stays_where_nothing_says_how_many_are_kept(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:  # as after a recovery: the configuration was on the old machine
        await world.write("f", b"x")
        await world.sync()
        made = world.catalog.make_snapshot("auto-then", world.swarm.wall.now_ns(), SnapshotKind.BY_ITSELF)
        remove(world, "f")
        await settle(world)
        assert world.node.snapshots.all() == [made]
        assert await content(world, "auto-then", "f") == b"x"


async def test_snapshots_come_back_on_another_machine(autojump_clock: MockClock, tmp_path: Path) -> None:
    old = random.Random(3).randbytes(400_000)
    async with World(code=CODE).running() as world:
        await world.write("file", old)
        await create(world, "first")
        await world.write("file", b"new beginning")
        await world.sync()
        await create(world, "second")
        remove(world, "file")
        await world.write("later", b"x")
        assert await world.sync() == "safe"
        identity = make_identity("another", owner="customer", epoch=2)
        await recover(world, tmp_path / "catalog.db", identity)
        with closing(SqliteCatalog(tmp_path / "catalog.db")) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=identity):
                assert listed(world, SNAPSHOTS_INO) == [b"first", b"second"]
                assert await content(world, "first", "file") == old
                assert await content(world, "second", "file") == b"new beginning" + old[13:]
                await world.node.snapshots.delete(["first"])
                await settle(world)
                assert await content(world, "second", "file") == b"new beginning" + old[13:]


@pytest.mark.parametrize("files", [2000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_snapshot_of_very_many_files_is_one_short_change(autojump_clock: MockClock, files: int) -> None:
    async with World(code=CODE).running() as world:
        for number in range(files):
            world.node.tree.symlink(ROOT_INO, b"%d" % number, b"x", CALLER)
        world.node.journal.commit()
        before = world.catalog.last_change
        steps = 0

        def step() -> bool:
            nonlocal steps
            steps += 1
            return False

        world.catalog.connection.set_progress_handler(step, 100)
        await create(world, "s")
        world.catalog.connection.set_progress_handler(None)
        assert steps < 50  # of 100 instructions of SQLite
        assert sum(len(changes) for _, changes in world.catalog.outbox(before, 1 << 30)) <= 1024
