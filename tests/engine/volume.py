"""A volume without a kernel and without a network, for tests of files, reader and writer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.files import Files
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.reads import Reads
from bitdustfs.engine.rebuilder import Rebuilder
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.uploads import Uploads
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import Code, Ino, Inode, Suite
from bitdustfs.ports import Spool
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.suppliers import MemorySuppliers

CODE = Code(3, 5)


class Volume:
    """The customer's engine over in-memory suppliers. `crash` and `restart` keep catalog and spool."""

    def __init__(
        self,
        *,
        suppliers: int = 5,
        spool_limit: int = 64 << 20,
        code: Code | None = CODE,
        catalog: SqliteCatalog | None = None,
        spool: MemorySpool | None = None,
        coat: Callable[[Spool], Spool] = lambda spool: spool,
    ) -> None:
        self.catalog = catalog or SqliteCatalog(":memory:")
        self.spool = spool or MemorySpool()
        self.coat = coat
        self.remote = MemorySuppliers(suppliers)
        self.entropy = SeededEntropy(7)
        self.wall = FakeWall(step_ns=1)
        self.code = code
        self.spool_limit = spool_limit
        for row in self.remote.rows():
            self.catalog.put_supplier(row)
        self.catalog.commit()
        self.start()

    def start(self, boot: bytes = b"first boot") -> None:
        """Build the engine over what catalog and spool hold."""
        crunch, secrets = InlineCrunch(), VolumeSecrets(b"v" * 32)
        self.journal = Journal(self.catalog)
        self.fragments = Fragments(self.catalog, self.journal, self.remote, crunch, secrets, self.entropy)
        self.reader = Reader(self.catalog, self.fragments, crunch, secrets)
        self.reads = Reads(self.reader, self.fragments)
        self.files = Files(
            self.catalog,
            self.coat(self.spool),
            self.journal,
            self.wall,
            self.reads,
            spool_limit=self.spool_limit,
        )
        self.files.start(boot)
        self.releases = Releases(self.catalog, self.journal, self.remote, secrets)
        self.uploads = Uploads(self.catalog, self.journal, self.remote, self.releases, secrets)
        self.writer = Writer(
            catalog=self.catalog,
            files=self.files,
            journal=self.journal,
            fetch=self.reader,
            uploads=self.uploads,
            crunch=crunch,
            entropy=self.entropy,
            secrets=secrets,
            suite=Suite.AES_256_GCM,
            code=self.code,
        )
        self.files.out_of_quota = lambda: "hire" if self.writer.out_of_room() else ""
        self.rebuilder = Rebuilder(
            self.catalog,
            self.journal,
            self.fragments,
            self.remote,
            self.uploads,
            self.releases,
            crunch,
            secrets,
            Courtesy(self.reads.is_busy),
            Copies(self.catalog, self.files, crunch, secrets),
        )

    @asynccontextmanager
    async def running(self, *, upload: bool = True) -> AsyncIterator[None]:
        """Run the services."""
        services: list[Callable[[], Awaitable[None]]] = [
            self.journal.run,
            self.files.run,
            self.files.keep_hard,
            self.reads.run,
        ]
        if upload:
            services += [self.writer.run, self.uploads.run, self.releases.run, self.rebuilder.run]
        async with trio.open_nursery() as nursery, self.uploads.running(), self.reader.running():
            for service in services:
                nursery.start_soon(self._keep_running, service)
            yield
            nursery.cancel_scope.cancel()

    async def _keep_running(self, service: Callable[[], Awaitable[None]]) -> None:
        """As the node does; but only faults of the disk are expected here."""
        while True:
            try:
                await service()
                return
            except (DiskFull, DiskFault):
                await trio.sleep(1)

    def create(self) -> Ino:
        """Make an empty regular file and open it."""
        ino = self.catalog.new_ino()
        inode = Inode(ino, 0o100644, 0, 0, 1, 0, 0, 1, 1)
        with self.journal.operation():
            self.catalog.put_inode(inode)
            self.files.created(inode)
        self.files.open(ino)
        return ino

    async def write_all(self, content: bytes) -> Ino:
        """Make a file with this content, closed."""
        ino = self.create()
        await self.files.write(ino, 0, content)
        self.files.close(ino)
        return ino

    async def flush(self) -> None:
        """Wait until everything is published, for at most ten minutes of virtual time."""
        with trio.fail_after(600):
            await self.writer.flush()

    async def forget(self) -> None:
        """Drop every clean copy: the next read comes from suppliers."""
        await self.files.cache.drop_all()
        self.reader.forget()
