"""A disk that was set back: the newer state is taken, and what was never sent is not lost without a visible copy."""

from __future__ import annotations

import random
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import adoption
from bitdustfs.core.adoption import LETTER
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.unsent import find, restore_notes
from bitdustfs.model import ROOT_INO, Code, FileState, Ino, RestoreReport
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, World
from tests.engine.recovered import recover
from tests.engine.setback import FOLDER, Bench, content, fetch, look, tree, without_suppliers

CODE = Code(3, 5)
SECOND = make_identity("second machine", owner="customer", epoch=2)
LONG = random.Random(7).randbytes(700_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Setback:
    """A machine in a world, an older copy of its disk, and what comes of both."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.now, self.old, self.new = (directory / name for name in ("now", "old", "new"))
        self.spool, self.old_spool, self.new_spool = MemorySpool(), MemorySpool(), MemorySpool()
        with closing(SqliteCatalog(self.now, create=True)) as catalog:
            for row in world.catalog.suppliers():
                catalog.put_supplier(row)
            catalog.commit()

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """The machine at work."""
        with closing(SqliteCatalog(self.now)) as catalog:
            async with self.world.machine(catalog, self.spool):
                yield

    async def life(self, files: Mapping[str, bytes]) -> None:
        """The machine writes these, brings them to suppliers, and ends."""
        async with self.living():
            for name, content in files.items():
                await self.world.write(name, content)
            await self.world.sync()

    def copy(self) -> None:
        """Copy its disk."""
        shutil.copyfile(self.now, self.old)
        self.old_spool = copied(self.spool)

    @asynccontextmanager
    async def set_back(self) -> AsyncIterator[SqliteCatalog]:
        """The old disk at work, without suppliers."""
        with closing(SqliteCatalog(self.old)) as catalog:
            async with without_suppliers(self.world, catalog, self.old_spool):
                yield catalog

    @asynccontextmanager
    async def unheard(self) -> AsyncIterator[SqliteCatalog]:
        """The old disk at work with suppliers that take everything but heads."""
        with closing(SqliteCatalog(self.old)) as catalog:
            for supplier in self.world.swarm.suppliers:
                supplier.mute.refuses_heads = True
            async with self.world.machine(catalog, self.old_spool):
                yield catalog
            for supplier in self.world.swarm.suppliers:
                supplier.mute.refuses_heads = False

    @asynccontextmanager
    async def adopted(self) -> AsyncIterator[tuple[Bench, SqliteCatalog]]:
        """The newer state in the place of the old one, at work; not yet the job of putting aside."""
        with closing(SqliteCatalog(self.old)) as old:
            found = await look(self.world, old)
            assert found is not None
            plan = await fetch(self.world, old, found, self.new)
            bench = Bench(self.world, old, self.old_spool, plan)
            with closing(SqliteCatalog(self.new)) as catalog:
                async with self.world.machine(catalog, self.new_spool):
                    yield bench, catalog


@asynccontextmanager
async def setback(directory: Path) -> AsyncIterator[Setback]:
    async with World(code=CODE).hired() as world:
        yield Setback(world, directory)


def letter(text: bytes) -> list[str]:
    return [line.strip() for line in text.decode().splitlines()]


@pytest.mark.slow
async def test_old_disk_takes_the_newer_state_and_puts_aside_what_was_never_sent(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"before": LONG, "changed later": b"1", "removed later": b"1", "to be renamed": b"1"})
        case.copy()
        async with case.living():
            await world.write("later", b"later")
            await world.write("changed later", b"22")
            world.node.tree.unlink(ROOT_INO, b"removed later")
            await world.sync()
        async with case.set_back():
            await world.write("only here", b"only here")
            await world.write("before", b"CHANGED", offset=300_000)
            directory = world.node.tree.mkdir(ROOT_INO, b"directory", 0o750, CALLER)
            world.node.tree.symlink(directory.ino, b"link", b"somewhere", CALLER)
            made = world.node.tree.mknod(directory.ino, b"empty", stat.S_IFREG | 0o600, CALLER)
            world.node.tree.link(made.ino, ROOT_INO, b"second name")
            world.node.attributes.set_xattr(made.ino, b"user.colour", b"blue")
            await world.node.tree.rename(ROOT_INO, b"to be renamed", ROOT_INO, b"renamed")
            for name in ("keepsake", "mistake"):
                await world.node.snapshots.create(name, 0.0)
            await world.node.snapshots.delete(["mistake"])
        async with case.adopted() as (bench, catalog):
            await bench.job(world.node, catalog).run()
            assert tree(catalog) == sorted(
                ["before", "changed later", "later", "to be renamed", FOLDER]
                + [f"{FOLDER}/{path}" for path in ("before", "only here", "second name", "directory")]
                + [f"{FOLDER}/directory/link", f"{FOLDER}/directory/empty"]
            )
            assert await content(world, catalog, "before") == LONG
            assert await content(world, catalog, "changed later") == b"22"
            changed = LONG[:300_000] + b"CHANGED" + LONG[300_007:]
            assert await content(world, catalog, f"{FOLDER}/before") == changed
            assert await content(world, catalog, f"{FOLDER}/only here") == b"only here"
            one = find(catalog, f"{FOLDER}/second name".encode())
            two = find(catalog, f"{FOLDER}/directory/empty".encode())
            assert one is not None and two is not None
            assert (one.ino, one.nlink, one.mode & 0o7777, one.uid) == (two.ino, 2, 0o600, CALLER.uid)
            assert catalog.xattr(one.ino, b"user.colour") == b"blue"
            said = letter(await content(world, catalog, f"{FOLDER}/{LETTER.decode()}"))
            assert "written by this machine before its disk was set back" in said[0]
            assert "renamed: to be renamed to renamed" in said and "only here" in said
            assert [line for line in said if "snapshot" in line] == [
                "snapshot made: keepsake; that state does not have it"
            ]
            assert bench.is_gone
            assert await world.sync() == "safe"
            assert world.node.files.state(one.ino) is FileState.SAFE
        with closing(SqliteCatalog(case.new)) as catalog:
            assert await look(world, catalog) is None


def test_what_the_state_that_was_taken_lacks_is_told_with_the_reason() -> None:
    lacks = restore_notes(RestoreReport(removed=(b"letters/new",), reverted=(b"plan",)))
    said = letter(adoption.letter(adoption.make_plan("folder", ["removed: x"], [], lacks=lacks), [], [], ""))
    assert said[-6:] == [
        "Done on this machine, and not done again in that state:",
        "removed: x",
        "",
        "What that state itself lacks, because whoever wrote it had not sent it:",
        "the file letters/new",
        "the last version of plan: it shows an older one",
    ]


@pytest.mark.slow
async def test_what_was_only_renamed_after_a_snapshot_is_told_and_not_put_aside(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"before": LONG, "changed too": LONG})
        async with case.living():
            world.node.tree.mkdir(ROOT_INO, b"directory", 0o750, CALLER)
            await world.node.snapshots.create("s", 60.0)
            await world.sync()
        case.copy()
        async with case.living():
            await world.write("later", b"later")
            await world.sync()
        world.swarm.wall.move_s(60)  # else a rename changes no time of an inode, and the snapshot has it as it is
        async with case.set_back():
            for was, now in ((b"before", b"behind"), (b"directory", b"folder"), (b"changed too", b"changed")):
                await world.node.tree.rename(ROOT_INO, was, ROOT_INO, now)
            await world.write("changed", b"CHANGED")
        async with case.adopted() as (bench, catalog):
            await bench.job(world.node, catalog).run()
            stays = ["before", "changed too", "directory", "later"]
            assert tree(catalog) == sorted([*stays, FOLDER, f"{FOLDER}/changed"])
            assert await content(world, catalog, f"{FOLDER}/changed") == b"CHANGED" + LONG[7:]
            said = letter(await content(world, catalog, f"{FOLDER}/{LETTER.decode()}"))
            assert [line for line in said if line.startswith("renamed")] == [
                "renamed: before to behind",
                "renamed: directory to folder",
            ]


@pytest.mark.slow
async def test_old_disk_without_unsent_changes_leaves_no_folder(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with setback(tmp_path) as case:
        async with case.living():
            await case.world.write("before", LONG)
            await case.world.sync()
        case.copy()
        async with case.living():
            await case.world.write("before", b"")
            case.world.node.tree.unlink(ROOT_INO, b"before")
            await case.world.write("later", b"later")
            await case.world.sync()
        async with case.adopted() as (bench, catalog):
            await bench.job(case.world.node, catalog).run()
            assert tree(catalog) == ["later"]
            assert bench.is_gone


@pytest.mark.slow
async def test_nothing_is_adopted_where_nothing_is_newer_or_nobody_answers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"before": b"before"})
        case.copy()
        with closing(SqliteCatalog(case.now)) as catalog:
            assert await look(world, catalog) is None
        await case.life({"later": b"later"})
        with closing(SqliteCatalog(case.old)) as catalog:
            for number in (1, 2, 3):
                world.swarm.silence(number)
            assert await look(world, catalog) is None  # two of five cannot say what the newest is
            world.swarm.heal(1)
            assert await look(world, catalog) is not None


@pytest.mark.slow
async def test_changes_that_were_sent_after_the_copy_was_made_are_not_put_aside(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"long": LONG})
        with closing(SqliteCatalog(case.now)) as catalog:
            async with without_suppliers(world, catalog, case.spool):
                await world.write("short", b"short")
                await world.write("long", b"CHANGED", offset=300_000)
                await world.write("other", b"other")
        case.copy()
        async with case.living():
            await world.sync()
            await world.write("other", b"OTHER")
            await world.sync()
        async with case.adopted() as (bench, catalog):
            assert len(bench.plan.entries) == 3
            await bench.job(world.node, catalog).run()
            assert tree(catalog) == sorted(["long", "short", "other", FOLDER, f"{FOLDER}/other"])
            assert await content(world, catalog, f"{FOLDER}/other") == b"other"


@pytest.mark.slow
async def test_disk_so_old_that_no_link_reaches_it_goes_by_what_was_safe_last(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"changed later": b"1"})
        case.copy()
        for number in range(2):
            async with case.living():
                await world.write("changed later", b"22" * (number + 1))
                await world.sync()
        async with case.set_back():
            await world.write("only here", b"only here")
        with closing(SqliteCatalog(case.old)) as old:
            found = await look(world, old)
            assert found is not None
            answers = {node: replace(answer, links=b"") for node, answer in found.answers.items()}
            plan = await fetch(world, old, replace(found, answers=answers), case.new)
        assert [entry.paths for entry in plan.entries] == [(b"only here",)]


@pytest.mark.slow
async def test_revoked_machine_adopts_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"file": b"1"})
        case.copy()
        await recover(world, tmp_path / "second", SECOND)
        with closing(SqliteCatalog(tmp_path / "second")) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await world.write("later", b"later")
                await world.sync()
        with closing(SqliteCatalog(case.old)) as old:
            assert await look(world, old) is None
            async with world.machine(old, case.old_spool, wait=False) as node:
                while node.journal.refusal is None:
                    await trio.sleep(1)
                assert "run `bitdustfs recover` into a new --home" in str(node.journal.refusal)
                assert node.stop_report()["becomes"] == "kept"


@pytest.mark.slow
async def test_everything_that_differs_is_put_aside_where_it_cannot_be_told_what_was_sent(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"same": b"same", "changed later": b"1"})
        case.copy()
        await case.life({"changed later": b"22"})
        async with case.set_back() as catalog:
            await world.write("only here", b"only here")
            world.node.journal.commit()
            with world.node.journal.operation():
                catalog.drop_outbox(catalog.last_change)
                catalog.put_local_value("gap", catalog.last_change.to_bytes(8, "big"))
        async with case.adopted() as (bench, catalog):
            await bench.job(world.node, catalog).run()
            both = [f"{FOLDER}/changed later", f"{FOLDER}/only here"]
            assert tree(catalog) == sorted(["same", "changed later", FOLDER, *both])


@pytest.mark.slow
async def test_what_suppliers_must_give_is_put_aside_when_they_are_back_and_the_rest_before(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"a long one": LONG})
        case.copy()
        await case.life({"later": b"later"})
        case.old_spool = MemorySpool()
        async with case.set_back():
            await world.node.drop_cache()
            await world.write("a long one", b"CHANGED", offset=300_000)
            await world.write("only here", b"only here")
        async with case.adopted() as (bench, catalog):
            for number in (1, 2, 3):
                world.swarm.cut(number)
            job = bench.job(world.node, catalog)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.run)
                await trio.sleep(60)
                assert await content(world, catalog, f"{FOLDER}/only here") == b"only here"
                assert (job.left, bench.is_gone) == (1, False) and job.trouble
                for number in (1, 2, 3):
                    world.swarm.heal(number)
            changed = LONG[:300_000] + b"CHANGED" + LONG[300_007:]
            assert await content(world, catalog, f"{FOLDER}/a long one") == changed
            assert (job.left, bench.is_gone) == (0, True)


@pytest.mark.slow
async def test_damaged_old_file_is_named_in_the_letter_and_its_state_is_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"before": b"before"})
        case.copy()
        await case.life({"later": b"later"})
        async with case.set_back():
            damaged = await world.write("damaged", LONG)
            await world.write("whole", b"whole")
        case.old_spool.flip(damaged, 200_000)
        async with case.adopted() as (bench, catalog):
            await bench.job(world.node, catalog).run()
            assert tree(catalog) == sorted(["before", "later", FOLDER, f"{FOLDER}/whole"])
            said = letter(await content(world, catalog, f"{FOLDER}/{LETTER.decode()}"))
            assert any(line.startswith("damaged: ") for line in said)
            assert any("/home/aside/1-old" in line for line in said)
            assert not bench.is_gone
            await bench.job(world.node, catalog).run()  # at the next start
            assert not bench.is_gone and len(tree(catalog)) == 4


class Killed:
    """Copies of catalog and spool as a `kill -9` would leave them, one after each step of either."""

    def __init__(self, case: Setback) -> None:
        self._case = case
        self.images: list[tuple[Path, MemorySpool]] = []

    def step(self) -> None:
        """Copy them now."""
        path = self._case.new.with_name(f"killed {len(self.images)}")
        for tail in ("", "-wal"):
            shutil.copyfile(str(self._case.new) + tail, str(path) + tail)
        self.images.append((path, copied(self._case.new_spool)))


class WatchedCatalog(SqliteCatalog):
    """Tells of each commit that it made."""

    def __init__(self, path: Path, killed: Killed) -> None:
        super().__init__(path)
        self._killed = killed

    def commit(self) -> None:
        before = self.pending
        super().commit()
        if before:
            self._killed.step()


class WatchedSpool(MemorySpool):
    """Tells of each write that it made, and is as slow as a disk when bytes are to be durable."""

    def __init__(self, killed: Killed) -> None:
        super().__init__()
        self.killed = killed

    def write(self, ino: Ino, at: int, content: bytes | memoryview) -> None:
        super().write(ino, at, content)
        self.killed.step()

    async def harden(self, ino: Ino) -> None:
        await trio.sleep(0.1)
        await super().harden(ino)


@pytest.mark.slow
async def test_putting_aside_goes_on_after_a_kill_anywhere_and_puts_each_thing_there_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"long": LONG})
        case.copy()
        await case.life({"later": b"later"})
        files = {f"file {number}": LONG[number : 20_000 * (number + 1)] for number in range(3)}
        async with case.set_back():
            for name, wanted in files.items():
                await world.write(name, wanted)
            await world.write("long", b"CHANGED", offset=300_000)
        files["long"] = LONG[:300_000] + b"CHANGED" + LONG[300_007:]
        killed = Killed(case)
        case.new_spool = WatchedSpool(killed)
        with closing(SqliteCatalog(case.old)) as old:
            found = await look(world, old)
            assert found is not None
            bench = Bench(world, old, case.old_spool, await fetch(world, old, found, case.new))
            for supplier in world.swarm.suppliers:
                supplier.mute.refuses_heads = True  # an older image is not older than what suppliers know
            with closing(WatchedCatalog(case.new, killed)) as catalog:
                async with world.machine(catalog, case.new_spool) as node:
                    await bench.job(node, catalog).run()
                    count = len(killed.images)
            found_there = set[int]()
            for path, spool in killed.images[:count]:
                with closing(SqliteCatalog(path)) as catalog:
                    found_there.add(len(tree(catalog)))
                    async with world.machine(catalog, spool) as node:
                        await bench.job(node, catalog).run()
                        assert tree(catalog) == sorted(["long", "later", FOLDER, *(f"{FOLDER}/{n}" for n in files)])
                        for name, wanted in files.items():
                            assert await content(world, catalog, f"{FOLDER}/{name}") == wanted
            assert len(found_there) > 3, "there were kills in the middle"


@pytest.mark.slow
async def test_volume_is_not_safe_before_all_is_put_aside(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"long": LONG})
        case.copy()
        await case.life({"later": b"later"})
        async with case.set_back():
            await world.write("only here", b"only here")
        async with case.adopted() as (bench, catalog):
            job = bench.job(world.node, catalog)
            world.node.reporter.aside.append(job)
            assert await world.sync() == "local"
            assert "1 file of this machine's older state" in " ".join((await world.status())["trouble"])
            await trio.sleep(300)
            assert not catalog.local_value("orphans")  # other machines may need what nothing here names
            await job.run()
            assert await world.sync() == "safe"
            await trio.sleep(300)
            assert not catalog.local_value("orphans")


def copied(spool: MemorySpool) -> MemorySpool:
    """The same bytes once more."""
    other = MemorySpool()
    for ino in spool.inos():
        other.write(ino, 0, spool.read(ino, 0, 1, extra=1 << 30))
    return other
