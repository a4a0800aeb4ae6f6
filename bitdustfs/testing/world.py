"""A whole world in one nursery: a customer's node, and suppliers behind a network in memory.

async with World(suppliers=5).running() as world:
    ino = await world.write("letter", b"…")
    world.swarm.cut(1)
    assert await world.read("letter") == b"…"

Under trio's MockClock hours pass in milliseconds. Everything is the real engine; only clock, dice, network, spool and
shelves are fakes.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.core.grace import Patience
from bitdustfs.core.report import StatusReport
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.engine.services import NodeOptions
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.tree import Caller
from bitdustfs.engine.view import Following
from bitdustfs.model import ROOT_INO, Code, Ino, Standing, SupplierNo
from bitdustfs.ports import Workshop
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.images import image_of
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import Swarm

SECRETS = VolumeSecrets(b"v" * 32)
CALLER = Caller(uid=1000, gid=1000)
_READ_BYTES = 128 * 1024


class World:
    """A customer, suppliers and, numbered behind them, candidates.

    `node`, its `suppliers` and `swarm` are there while it runs.

    Args:
        coat: put around the ports "catalog", "spool", "entropy" and "suppliers", to let them fail.

    Attributes:
        options: how the next node behaves.
        boot: which boot of the customer's machine the next node is in; b"": each is in another one.
    """

    node: Node
    suppliers: Suppliers
    swarm: Swarm

    def __init__(
        self,
        *,
        suppliers: int = 5,
        candidates: int = 0,
        code: Code | None = None,
        spool_limit: int = 64 << 20,
        contract_bytes: int = 1 << 30,
        seed: int = 0,
        patience: Patience | None = None,
        audits_a_day: int = 16,
        coat: Callable[[str, Any], Any] = lambda _name, port: port,
    ) -> None:
        self._coat = coat
        self._hired = suppliers
        self._count = suppliers + candidates
        self.options = NodeOptions(
            spool_limit=spool_limit, code=code, patience=patience or Patience(), audits_a_day=audits_a_day
        )
        self._contract_bytes = contract_bytes
        self._seed = seed
        self.boot = b""
        self.catalog: SqliteCatalog = coat("catalog", SqliteCatalog(":memory:", create=True))
        self.spool: MemorySpool = coat("spool", MemorySpool())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """Start everything, hire the suppliers, and wait until they are online."""
        async with self.hired(), self.machine(self.catalog, self.spool):
            yield self

    @asynccontextmanager
    async def hired(self) -> AsyncIterator[World]:
        """Start the suppliers only, and hire them."""
        async with trio.open_nursery() as nursery:
            self.swarm = Swarm(nursery, self._count, seed=self._seed)
            self.swarm.entropy = self._coat("entropy", self.swarm.entropy)
            for row in await self.swarm.hire_all(self._contract_bytes):
                standing = Standing.HIRED if row.supplier <= self._hired else Standing.CANDIDATE
                self.catalog.put_supplier(replace(row, supplier=SupplierNo(0), standing=standing))
            self.catalog.commit()
            yield self
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def machine(
        self,
        catalog: SqliteCatalog,
        spool: MemorySpool,
        *,
        identity: Identity | None = None,
        wall: FakeWall | None = None,
        workshop: Workshop | None = None,
        wait: bool = True,
    ) -> AsyncIterator[Node]:
        """Run a node of the owner over a catalog and a spool; `node` is this one from then on.

        Args:
            identity: None: the customer's first machine.
            wall: its clock; None: the one that suppliers have.
            workshop: to follow the heads of others, once it does not write; None: it shows what it has.
            wait: until all suppliers are online.
        """
        side = self.swarm.customer_side(list(catalog.suppliers()), identity)
        self.suppliers = suppliers = self._coat("suppliers", side)
        self.node = node = Node(
            identity=identity or self.swarm.identity,
            catalog=catalog,
            changes=SqliteChanges(),
            image=lambda: image_of(catalog),
            spool=spool,
            suppliers=suppliers,
            crunch=InlineCrunch(),
            entropy=self.swarm.entropy,
            wall=wall or self.swarm.wall,
            secrets=SECRETS,
            options=replace(self.options, boot=self.boot),
            following=Following(side, workshop) if workshop is not None else None,
        )
        node.tree.plant(None, CALLER)
        async with node.running():
            while wait and len(suppliers.online()) < self._count:
                await suppliers.wait_for_change()
            yield node

    async def write(self, name: str, content: bytes, *, offset: int = 0) -> Ino:
        """Write into a file of the root directory; it is made if it is not there."""
        found = self.node.tree.lookup(ROOT_INO, name.encode())
        inode = found or self.node.tree.mknod(ROOT_INO, name.encode(), stat.S_IFREG | 0o644, CALLER)
        self.node.tree.lives.opened(inode.ino)
        try:
            await self.node.files.write(inode.ino, offset, content)
        finally:
            self.node.tree.lives.closed(inode.ino)
        return inode.ino

    async def read(self, name: str) -> bytes:
        """The whole content of a file of the root directory."""
        return await read_whole(self.node, name)

    async def sync(self) -> str:
        """Bring everything to suppliers; returns the state that was reached."""
        report = await self.node.sync(_say_nothing, None)
        return report["state"]

    async def status(self) -> StatusReport:
        """What `status` says."""
        return await self.node.status()


async def _say_nothing(_step: object) -> None:
    return


async def read_whole(node: Node, name: str) -> bytes:
    """The whole content of a file of the root directory of a mount."""
    inode = node.tree.lookup(ROOT_INO, name.encode())
    assert inode is not None, f"{name} does not exist"
    return await read_whole_of(node, inode.ino)


async def read_whole_of(node: Node, ino: Ino) -> bytes:
    """The whole content of a file of a mount."""
    got = bytearray()
    while more := await node.files.read(ino, len(got), _READ_BYTES):
        got += more
    return bytes(got)
