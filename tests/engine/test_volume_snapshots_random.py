"""Snapshots of the volume against a model: random changes, snapshots, deletions, and machines that are lost.

The fault budget: of five suppliers one at a time does not answer; a machine is lost after all was brought to
suppliers. Whatever happened, the volume and each snapshot that was not deleted show what the model has, also on the
machine that was recovered to.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.past import SNAPSHOTS_INO
from bitdustfs.core.thinning import USUAL
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.volume_snapshots import AUTOMATIC
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, Code, Cookie, Ino
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, World
from tests.engine.recovered import recover

NAMES = [b"a", b"b", b"c", b"d/a", b"d/b"]
LONGEST = 2 * CHUNK_BYTES + 1000
Tree = dict[bytes, bytes]  # path of each file: its content


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Story:
    """A volume, its model, and dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.world = World(code=Code(2, 4), seed=seed)
        self.world.options = replace(self.world.options, snapshots=USUAL)
        self.now: Tree = {}
        self.kept: dict[str, Tree] = {}
        self.made = 0
        self.killed: int | None = None

    # -- what happens ------------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Do one thing, in the volume and in the model."""
        acts = [self.truncate, self.remove, self.rename, self.forget, self.supplier, self.wait, self.drop_cache]
        await self.dice.choice([self.write] * 3 + [self.keep] * 2 + acts)()

    async def write(self) -> None:
        path = self.dice.choice(NAMES)
        ino = self.ino(path) or self.make(path)
        at = self.dice.choice([0, 0, self.dice.randrange(LONGEST)])
        content = self.dice.randbytes(self.dice.choice([1, 5000, CHUNK_BYTES + 7]))
        self.world.node.tree.lives.opened(ino)
        try:
            await self.world.node.files.write(ino, at, content)
        finally:
            self.world.node.tree.lives.closed(ino)
        before = self.now.get(path, b"").ljust(at, b"\0")
        self.now[path] = before[:at] + content + before[at + len(content) :]

    async def truncate(self) -> None:
        if self.now:
            path, size = self.dice.choice(sorted(self.now)), self.dice.randrange(LONGEST)
            await self.world.node.files.truncate(self.there(path), size)
            self.now[path] = self.now[path][:size].ljust(size, b"\0")

    async def remove(self) -> None:
        if self.now:
            path = self.dice.choice(sorted(self.now))
            self.world.node.tree.unlink(*self.place(path))
            del self.now[path]

    async def rename(self) -> None:
        if self.now:
            old, new = self.dice.choice(sorted(self.now)), self.dice.choice(NAMES)
            await self.world.node.tree.rename(*self.place(old), *self.place(new))
            self.now[new] = self.now.pop(old)

    async def keep(self) -> None:
        self.made += 1
        made, left = await self.world.node.snapshots.create(f"s{self.made}", 300.0)
        assert left == 0
        self.kept[made.name] = dict(self.now)

    async def forget(self) -> None:
        if self.kept:
            first = self.dice.choice(list(self.kept))
            to = self.dice.choice([None, first, list(self.kept)[-1]])
            gone = await self.world.node.snapshots.delete([first], to)
            for each in gone:
                self.kept.pop(each.name, None)

    async def supplier(self) -> None:
        suppliers = self.world.swarm.suppliers
        if self.killed is not None:
            suppliers[self.killed].start()
            self.killed = None
        else:
            self.killed = self.dice.randrange(len(suppliers))
            suppliers[self.killed].kill()

    async def wait(self) -> None:
        self.world.swarm.wall.move_s(self.dice.choice([60, 3600, 40 * 86_400]))
        await trio.sleep(self.dice.choice([1, 70, 400]))

    async def drop_cache(self) -> None:
        await self.world.node.drop_cache()

    # -- what is there -----------------------------------------------------------------------------------------

    def place(self, path: bytes) -> tuple[Ino, bytes]:
        """The directory that a path is in, which is made if it is not there, and the name in it."""
        above, _, name = path.rpartition(b"/")
        if not above:
            return ROOT_INO, name
        found = self.world.node.tree.lookup(ROOT_INO, above)
        return (found or self.world.node.tree.mkdir(ROOT_INO, above, 0o755, CALLER)).ino, name

    def ino(self, path: bytes) -> Ino | None:
        found = self.world.node.tree.lookup(*self.place(path))
        return found.ino if found is not None else None

    def there(self, path: bytes) -> Ino:
        ino = self.ino(path)
        assert ino is not None, path
        return ino

    def make(self, path: bytes) -> Ino:
        parent, name = self.place(path)
        return self.world.node.tree.mknod(parent, name, stat.S_IFREG | 0o644, CALLER).ino

    async def shown_now(self) -> Tree:
        tree, files = self.world.node.tree, self.world.node.files
        found: Tree = {}
        pending = [(b"", ROOT_INO)]
        while pending:
            above, directory = pending.pop()
            for name, inode in tree.listing(directory, Cookie(0), 100):
                if inode.is_dir:
                    pending.append((above + name.name + b"/", inode.ino))
                else:
                    found[above + name.name] = await files.read(inode.ino, 0, LONGEST + CHUNK_BYTES + 7)
        return found

    async def shown_in(self, snapshot: str) -> Tree:
        past = self.world.node.past
        found: Tree = {}
        pending = [(b"", past.lookup(SNAPSHOTS_INO, snapshot.encode()).ino)]
        while pending:
            above, directory = pending.pop()
            for name, inode in past.listing(directory, Cookie(0), 100):
                if inode.is_dir:
                    pending.append((above + name.name + b"/", inode.ino))
                else:
                    found[above + name.name] = await past.read(inode.ino, 0, LONGEST + CHUNK_BYTES + 7)
        return found

    async def check(self) -> None:
        """Compare everything with the model; what was made by itself can be read, whatever it has."""
        assert short(await self.shown_now()) == short(self.now)
        names = [each.name for each in self.world.node.snapshots.all()]
        own = [name for name in names if name.startswith(AUTOMATIC)]
        assert [name for name in names if name not in own] == list(self.kept)
        for name, tree in self.kept.items():
            assert short(await self.shown_in(name)) == short(tree), name
        for name in own:
            await self.shown_in(name)

    async def settle(self) -> None:
        """All suppliers are there, and have everything."""
        if self.killed is not None:
            await self.supplier()
        await trio.sleep(100)
        assert await self.world.sync() == "safe"


def short(tree: Mapping[bytes, bytes]) -> dict[bytes, tuple[int, int]]:
    """What is compared, so that a failure can be printed."""
    return {path: (len(content), hash(content)) for path, content in tree.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "machines", "steps"),
    [(1, 2, 14)] + [pytest.param(s, 5, 60, marks=pytest.mark.long) for s in range(10, 30)],
)
async def test_volume_and_snapshots_show_what_the_model_has_on_each_machine(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, tmp_path: Path, seed: int, machines: int, steps: int
) -> None:
    story = Story(seed)
    async with story.world.hired():
        catalog, spool, identity = story.world.catalog, story.world.spool, story.world.swarm.identity
        for machine in range(machines):
            with closing(catalog):
                async with story.world.machine(catalog, spool, identity=identity):
                    await story.check()  # at once, with nothing but what suppliers have
                    for _ in range(steps):
                        await story.step()
                    await story.check()
                    await story.settle()
                    await story.world.node.drop_cache()
                    await story.check()
            path = tmp_path / f"catalog{machine}.db"
            identity = make_identity(f"machine {machine}", owner="customer", epoch=2 + machine)
            await recover(story.world, path, identity)
            catalog, spool = SqliteCatalog(path), MemorySpool()
        async with story.world.machine(catalog, spool, identity=identity):
            await story.check()
        catalog.close()
