"""A name space without a kernel, for tests of tree, lives and attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.files import Files
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.tree import Caller, Tree
from bitdustfs.model import NO_INO, ROOT_INO, Code, Cookie, Ino, Inode
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.spool import MemorySpool

ME = Caller(uid=1000, gid=100)


class _Nowhere:
    async def chunk(self, ino: Ino, index: int) -> bytes:
        raise AssertionError("nothing was published")

    def ahead(self, ino: Ino, indexes: Sequence[int], enough: int = 0) -> int:
        return enough

    @property
    def ahead_chunks(self) -> int:
        return 0


class _Files(Files):
    """Files where something else can happen while one is settled."""

    meanwhile: Callable[[], None] | None = None

    async def settle(self, ino: Ino) -> None:
        await super().settle(ino)
        if self.meanwhile is not None:
            self.meanwhile()


class Names:
    """Tree and attributes over a catalog in memory. `restart` keeps the catalog, as a new process would find it."""

    def __init__(self) -> None:
        self.catalog = SqliteCatalog(":memory:")
        self.spool = MemorySpool()
        self.wall = FakeWall(step_ns=1)
        self.steps = 0
        self._start()
        self.tree.plant(Code(3, 5), Caller(uid=0, gid=0))

    def count_steps(self) -> None:
        """From now on count in `steps` the instructions that SQLite executes, in tens."""

        def step() -> bool:
            self.steps += 1
            return False

        self.steps = 0
        self.catalog.connection.set_progress_handler(step, 10)

    def restart(self) -> int:
        """Forget all memory. Returns how many inodes were dropped."""
        self.journal.commit()
        self._start()
        return self.tree.lives.start()

    def _start(self) -> None:
        self.journal = Journal(self.catalog)
        self.files = _Files(self.catalog, self.spool, self.journal, self.wall, _Nowhere(), spool_limit=1 << 20)
        self.tree = Tree(self.catalog, self.journal, self.files, self.wall)
        self.files.on_published = self.tree.published
        self.attributes = Attributes(self.catalog, self.journal, self.files, self.wall)

    # -- short forms ---------------------------------------------------------------------------------------

    def file(self, name: bytes, parent: Ino = ROOT_INO, mode: int = 0o644) -> Ino:
        return self.tree.mknod(parent, name, mode, ME).ino

    def published(self, name: bytes, parent: Ino = ROOT_INO) -> Ino:
        """A file with a published, empty version."""
        ino = self.file(name, parent)
        self.publish(ino)
        return ino

    def publish(self, ino: Ino) -> None:
        """What the writer does when all chunks of a version are placed."""
        life = next(life for life in self.files.dirty_lives() if life.ino == ino)
        assert self.files.publish(self.files.freeze(life), {})

    def folder(self, name: bytes, parent: Ino = ROOT_INO, mode: int = 0o755) -> Ino:
        return self.tree.mkdir(parent, name, mode, ME).ino

    async def move(self, name: bytes, new_name: bytes, flags: int = 0) -> None:
        """Rename inside the root."""
        await self.tree.rename(ROOT_INO, name, ROOT_INO, new_name, flags)

    def ino(self, name: bytes, parent: Ino = ROOT_INO) -> Ino:
        """What a name shows; NO_INO if there is no such name."""
        found = self.tree.lookup(parent, name)
        return found.ino if found is not None else NO_INO

    def superseded(self, name: bytes, parent: Ino = ROOT_INO) -> Ino:
        found = self.catalog.name(parent, name)
        return found.superseded if found is not None else NO_INO

    def at(self, ino: Ino) -> Inode:
        return self.tree.attributes(ino)

    def exists(self, ino: Ino) -> bool:
        return self.catalog.inode(ino) is not None

    def listed(self, ino: Ino = ROOT_INO) -> list[bytes]:
        return [name.name for name, _ in self.tree.listing(ino, Cookie(0), 10_000)]
