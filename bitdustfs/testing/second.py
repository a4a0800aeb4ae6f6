"""A second machine of the owner in a world: it recovers with a reader's certificate, and follows the heads.

second = SecondMachine(world, tmp_path / "catalog.db")
await second.recover()
async with second.running() as node:
    await node.view.wait_until(version)
    assert await second.read("letter") == b"…"
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

from bitdustfs.core.certificate import Identity
from bitdustfs.core.recovery import Found
from bitdustfs.edges.catalog_beside import Beside, DiskWorkshop
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.engine.recovery import Recovery, Seeker
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.view import Following
from bitdustfs.model import Role
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.images import image_of
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World, read_whole


class SecondMachine:
    """What is kept over a restart, and the node that runs on it."""

    node: Node
    suppliers: Suppliers
    catalog: SqliteCatalog

    def __init__(self, world: World, path: Path, *, identity: Identity | None = None) -> None:
        self._world = world
        self._path = path
        self.identity = identity or make_identity("second machine", owner="customer", role=Role.READER)
        self.spool = MemorySpool()
        self.workshop = CountingWorkshop(path, path.with_name(path.name + ".beside"))

    async def recover(self, *, friend: int = 1) -> Found:
        """Make the catalog from what suppliers have, knowing the keys and one supplier."""
        dialer = self._world.swarm.network.dialer(self.identity.node)
        seeker = Seeker(dialer, lambda _epoch: self.identity, SECRETS, self.identity.owner)
        first = self._world.swarm.suppliers[friend - 1]
        found = await seeker.find([(first.node, first.address)])
        side = self._world.swarm.customer_side(list(found.suppliers), self.identity)
        scratch = SqliteCatalog(":memory:", create=True)
        recovery = Recovery(found, side, SECRETS, InlineCrunch(), self._world.swarm.entropy, scratch)
        with closing(Restore(self._path)) as restore:
            await recovery.fetch(restore, _say_nothing)
            restore.finish(last_change=found.content.change, verbatim=True)
        with closing(SqliteCatalog(self._path)) as catalog:
            recovery.note(catalog)
            catalog.commit()
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Run a node over what is kept."""
        with closing(SqliteCatalog(self._path)) as self.catalog:
            swarm, catalog = self._world.swarm, self.catalog
            self.suppliers = swarm.customer_side(list(catalog.suppliers()), self.identity)
            self.node = Node(
                identity=self.identity,
                catalog=catalog,
                changes=SqliteChanges(),
                image=lambda: image_of(catalog),
                spool=self.spool,
                suppliers=self.suppliers,
                crunch=InlineCrunch(),
                entropy=swarm.entropy,
                wall=swarm.wall,
                secrets=SECRETS,
                options=replace(self._world.options, boot=b"second machine"),
                following=Following(self.suppliers, self.workshop),
            )
            async with self.node.running():
                yield self.node

    async def read(self, name: str) -> bytes:
        """The whole content of a file of the root directory."""
        return await read_whole(self.node, name)


class CountingWorkshop(DiskWorkshop):
    """Counts the whole catalogs that were made, or makes none."""

    made = 0
    is_closed = False

    def beside(self) -> Beside:
        assert not self.is_closed, "deltas lead there"
        self.made += 1
        return super().beside()


async def _say_nothing(_done: int, _total: int) -> None:
    return
