"""What only a snapshot has that was made on a disk before it was set back, and that no head ever named."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.adoption import LETTER
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.aside import Unreadable
from bitdustfs.engine.attributes import Changes
from bitdustfs.engine.unsent import find
from bitdustfs.model import ROOT_INO, Ino, SnapshotKind
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import CALLER
from tests.engine.setback import FOLDER, Bench, content, fetch, look, tree
from tests.engine.test_adoption import LONG, Killed, Setback, WatchedCatalog, WatchedSpool, letter, setback
from tests.engine.test_volume_snapshots_random import Story, Tree

FIRST, SECOND, LAST = (f"{FOLDER}/Snapshot {name}" for name in ("first", "second", "auto-last"))


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def keep(case: Setback, name: str) -> None:
    """Make a snapshot of all that there is."""
    case.world.swarm.wall.move_s(1)
    _made, left = await case.world.node.snapshots.create(name, 300.0)
    assert left == 0


def keep_by_itself(case: Setback, catalog: SqliteCatalog, name: str) -> None:
    case.world.swarm.wall.move_s(1)
    catalog.make_snapshot(name, case.world.swarm.wall.now_ns(), SnapshotKind.BY_ITSELF)
    case.world.node.journal.note()


def ino_of(case: Setback, *path: bytes) -> Ino:
    ino = ROOT_INO
    for part in path:
        inode = case.world.node.tree.lookup(ino, part)
        assert inode is not None, path
        ino = inode.ino
    return ino


@asynccontextmanager
async def with_a_past(directory: Path) -> AsyncIterator[Setback]:
    """A disk that was set back, with three snapshots that were never sent."""
    async with setback(directory) as case:
        world = case.world
        await case.life({"sent": b"sent", "changed later": b"1", "renamed": b"renamed"})
        case.copy()
        async with case.unheard() as catalog:
            await past_life(case, catalog)
        await case.life({"later": b"later", "changed later": b"22"})
        assert not world.swarm.suppliers[0].mute.refuses_heads
        yield case


async def past_life(case: Setback, catalog: SqliteCatalog) -> None:
    world = case.world
    node = world.node
    await world.write("only in both", LONG)
    await world.write("overwritten", b"one" * 6000)
    await node.tree.rename(ROOT_INO, b"renamed", ROOT_INO, b"renamed here")
    directory = node.tree.mkdir(ROOT_INO, b"directory", 0o750, CALLER)
    node.tree.symlink(directory.ino, b"link", b"somewhere", CALLER)
    node.tree.mkdir(directory.ino, b"empty", 0o711, CALLER)
    made = node.tree.mknod(directory.ino, b"file", stat.S_IFREG | 0o600, CALLER)
    node.tree.lives.opened(made.ino)
    await node.files.write(made.ino, 0, b"as it was" * 6000)
    node.tree.lives.closed(made.ino)
    node.tree.link(made.ino, ROOT_INO, b"second name")
    node.attributes.set_xattr(made.ino, b"user.colour", b"blue")
    await node.attributes.set(made.ino, Changes(mtime_ns=10**18))
    await keep(case, "first")
    node.attributes.set_xattr(made.ino, b"user.colour", b"red")
    await node.attributes.set(made.ino, Changes(mode=0o644))
    await world.write("overwritten", b"two" * 6000)
    await world.write("in place of it", b"new")
    await node.tree.rename(ROOT_INO, b"in place of it", ROOT_INO, b"second name")
    await keep(case, "second")
    for above, name in ((directory.ino, b"file"), (directory.ino, b"link"), (ROOT_INO, b"only in both")):
        node.tree.unlink(above, name)
    node.tree.rmdir(directory.ino, b"empty")
    node.tree.rmdir(ROOT_INO, b"directory")
    for name in (b"sent", b"renamed here"):
        node.tree.unlink(ROOT_INO, name)  # the newer state has them
    await world.write("a moment", b"a moment" * 6000)
    await node.sync(nothing, 1)
    keep_by_itself(case, catalog, "auto-last")
    node.tree.unlink(ROOT_INO, b"a moment")
    await keep(case, "nothing of its own")
    await world.write("overwritten", b"three" * 6000)  # and it is dirty when the machine ends


async def nothing(_step: object) -> None:
    return


ASIDE = {
    f"{FOLDER}/overwritten": b"three" * 6000,
    f"{FOLDER}/second name": b"new",
    f"{FIRST}/only in both": LONG,
    f"{FIRST}/overwritten": b"one" * 6000,
    f"{FIRST}/directory/file": b"as it was" * 6000,
    f"{FIRST}/second name": b"as it was" * 6000,
    f"{SECOND}/overwritten": b"two" * 6000,
    f"{LAST}/a moment": b"a moment" * 6000,
}
OTHERS = {f"{FIRST}/directory", f"{FIRST}/directory/link", f"{FIRST}/directory/empty", FIRST, SECOND, LAST, FOLDER}
NEWER = {"sent", "changed later", "renamed", "later"}


@pytest.mark.slow
async def test_what_only_an_unsent_snapshot_has_is_put_aside_in_a_folder_of_its_name(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with with_a_past(tmp_path) as case, case.adopted() as (bench, catalog):
        await bench.job(case.world.node, catalog).run()
        assert tree(catalog) == sorted({*ASIDE, *OTHERS, *NEWER})
        for path, wanted in ASIDE.items():
            assert await content(case.world, catalog, path) == wanted
        one, two = (find(catalog, f"{FIRST}/{path}".encode()) for path in ("directory/file", "second name"))
        assert one is not None and two is not None
        assert (one.ino, one.nlink, one.mode & 0o7777) == (two.ino, 2, 0o600)
        assert case.world.node.files.attributes(one.ino).mtime_ns == 10**18
        assert catalog.xattr(one.ino, b"user.colour") == b"blue"
        directory, link = (find(catalog, f"{FIRST}/directory{path}".encode()) for path in ("", "/link"))
        assert directory is not None and directory.mode & 0o7777 == 0o750
        assert link is not None and link.target == b"somewhere"
        said = letter(await content(case.world, catalog, f"{FOLDER}/{LETTER.decode()}"))
        assert "Snapshot first/directory/file" in said
        lies = "that state does not have it; what only it still had lies in Snapshot"
        assert [line for line in said if line.startswith("snapshot made")] == [
            f"snapshot made: first; {lies} first",
            f"snapshot made: second; {lies} first and Snapshot second",
            f"snapshot made by itself: auto-last; {lies} second and Snapshot auto-last",
            f"snapshot made: nothing of its own; {lies} second",
        ]
        assert bench.is_gone
        assert await case.world.sync() == "safe"


@pytest.mark.slow
async def test_putting_aside_what_snapshots_have_goes_on_after_a_kill_anywhere(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with with_a_past(tmp_path) as case:
        world, killed = case.world, Killed(case)
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
                        assert tree(catalog) == sorted({*ASIDE, *OTHERS, *NEWER})
                        for name, wanted in ASIDE.items():
                            assert await content(world, catalog, name) == wanted
            assert len(found_there) > 5, "there were kills in the middle"


@pytest.mark.slow
async def test_what_was_sent_and_has_been_let_go_is_told_and_keeps_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with setback(tmp_path) as case:
        world = case.world
        await case.life({"removed in both": LONG, "stays": b"stays"})
        case.copy()
        async with case.unheard():
            await keep(case, "first")
            world.node.tree.unlink(ROOT_INO, b"removed in both")
        async with case.living():
            world.node.tree.unlink(ROOT_INO, b"removed in both")
            assert await world.sync() == "safe"
            await trio.sleep(3600)
        case.old_spool = MemorySpool()
        async with case.adopted() as (bench, catalog):
            await bench.job(world.node, catalog).run()
            assert tree(catalog) == sorted(["stays", FOLDER])
            said = letter(await content(world, catalog, f"{FOLDER}/{LETTER.decode()}"))
            assert any("suppliers have let it go since" in line for line in said)
            assert any(line.startswith("Snapshot first/removed in both: ") for line in said)
            assert bench.is_gone


class Ticking(Story):
    """A story in which no two snapshots are of one time, and no supplier takes heads where that is said."""

    is_heard = True

    async def supplier(self) -> None:
        await super().supplier()
        for each in self.world.swarm.suppliers:  # one that was started again too
            each.mute.refuses_heads = not self.is_heard

    async def keep(self) -> None:
        self.world.swarm.wall.move_s(1)
        await super().keep()


class Lives:
    """Two lives of one disk, each a story, after what both have. What was sent is not let go in the newer life."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.story = Ticking(seed)
        self.case: Setback
        self.directory = directory
        self.sent: Tree = {}
        self.old: Tree = {}  # at the end of the old life
        self.kept: dict[str, Tree] = {}  # in the old life only

    async def live(self, steps: int) -> None:
        for _ in range(steps):
            await self.story.step()
        if self.story.killed is not None:
            await self.story.supplier()
        await trio.sleep(100)

    async def run(self, steps: int) -> None:
        """Have both, and leave the disk as it was set back."""
        story, case = self.story, self.case
        async with case.living():
            await self.live(steps)
            assert await case.world.sync() == "safe"
        case.copy()
        self.sent, before = dict(story.now), dict(story.kept)
        async with case.unheard():
            story.is_heard = False
            await self.live(2 * steps)
            story.is_heard = True
        self.old, self.kept = story.now, {name: story.kept[name] for name in story.kept.keys() - before.keys()}
        story.now, story.kept = dict(self.sent), before
        case.world.swarm.wall.move_s(1)  # what both make by themselves has another name
        async with case.living():
            case.world.node.reporter.aside.append(Unreadable("", left=0))  # nothing is let go
            await self.live(steps)
            await case.world.write("later", b"later")
            assert await case.world.sync() == "safe"
        story.now[b"later"] = b"later"

    def check(self, shown: Tree) -> None:
        """All that snapshots had is there, where it should be, and once."""
        front = FOLDER.encode() + b"/Snapshot "
        aside = {path.removeprefix(front): shown[path] for path in shown if path.startswith(front)}
        for name, kept in self.kept.items():
            for path, wanted in kept.items():
                was_sent = wanted in self.sent.values() and wanted in self.old.values()
                assert was_sent or wanted in shown.values(), (name, path)
        for place, wanted in aside.items():
            above, _, path = place.partition(b"/")
            assert above.decode() not in self.kept or self.kept[above.decode()][path] == wanted
        whole = [wanted for wanted in aside.values() if wanted.strip(b"\0")]
        assert len(whole) == len(set(whole))
        assert {path: shown[path] for path in shown if not path.startswith(FOLDER.encode())} == self.story.now


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 10), (2, 10)] + [pytest.param(s, 40, marks=pytest.mark.long) for s in range(10, 30)]
)
async def test_whatever_was_done_all_that_unsent_snapshots_had_is_there(
    autojump_clock: MockClock, tmp_path: Path, seed: int, steps: int
) -> None:
    lives = Lives(seed, tmp_path)
    async with lives.story.world.hired() as world:
        lives.case = Setback(world, tmp_path)
        await lives.run(steps)
        async with lives.case.adopted() as (bench, catalog):
            job = bench.job(world.node, catalog)
            world.node.reporter.aside.append(job)
            await job.run()
            assert bench.is_gone
            shown = await lives.story.shown_now()
            letters = [path for path in shown if path.endswith(LETTER)]
            lives.check({path: wanted for path, wanted in shown.items() if path not in letters})
