"""A machine whose disk is set back, in a world: what `bitdustfs mount` does before it serves, without its disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import trio

from bitdustfs.core.adoption import LETTER, Plan
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import NO_SEAT
from bitdustfs.core.lease import Holder
from bitdustfs.core.recovery import Found
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.adoption import find_newer, make_plan
from bitdustfs.engine.aside import Aside, OldState
from bitdustfs.engine.node import Node
from bitdustfs.engine.recovery import Recovery
from bitdustfs.engine.unsent import find
from bitdustfs.model import ROOT_INO, Cookie, Ino
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import SECRETS, World

FOLDER = "Put aside 2026-11-27 08.51"


async def look(world: World, catalog: SqliteCatalog, identity: Identity | None = None) -> Found | None:
    """Ask the suppliers, as before a mount."""
    who = identity or world.swarm.identity
    return await find_newer(world.swarm.network.dialer(who.node), who, SECRETS, catalog)


async def fetch(world: World, old: SqliteCatalog, found: Found, path: Path, us: Holder | None = None) -> Plan:
    """Make the newer catalog at `path`. Returns what of the old one is to be put aside.

    Args:
        us: who adopts; None: the first machine, in the seat of a home that has none.
    """
    us = us or Holder(world.swarm.identity.node, NO_SEAT)
    side = world.swarm.customer_side(list(found.suppliers))
    scratch = SqliteCatalog(":memory:", create=True)
    recovery = Recovery(found, side, SECRETS, InlineCrunch(), world.swarm.entropy, scratch)
    with closing(Restore(path)) as restore:
        await recovery.fetch(restore, _say_nothing)
        report = restore.finish(last_change=found.content.change)
    with closing(SqliteCatalog(path)) as catalog:
        recovery.note(catalog)
        catalog.commit()
        return await make_plan(old, catalog, found, SECRETS, SqliteChanges(), report, folder=FOLDER, us=us)


class Bench:
    """The old state on a bench, beside the machine that works on with the newer one."""

    def __init__(self, world: World, old: SqliteCatalog, spool: MemorySpool, plan: Plan) -> None:
        self.world = world
        self.old, self.spool, self.plan = old, spool, plan
        self.is_gone = False

    def job(self, node: Node, catalog: SqliteCatalog) -> Aside:
        """What puts the old state aside."""
        side = self.world.swarm.customer_side(list(self.old.suppliers()))

        async def let_go() -> None:
            await trio.lowlevel.checkpoint()
            self.is_gone = True

        state = OldState("1-old", "/home/aside/1-old", self.plan, self.old, self.spool, side, b"boot", let_go)
        return Aside(state, node, catalog, SECRETS, InlineCrunch(), self.world.swarm.wall)


@asynccontextmanager
async def without_suppliers(world: World, catalog: SqliteCatalog, spool: MemorySpool) -> AsyncIterator[Node]:
    """The machine at work while no supplier can be reached."""
    numbers = range(1, len(world.swarm.suppliers) + 1)
    for number in numbers:
        world.swarm.cut(number)
    async with world.machine(catalog, spool, wait=False) as node:
        yield node
    for number in numbers:
        world.swarm.heal(number)


def tree(catalog: SqliteCatalog) -> list[str]:
    """All paths, but the letter."""
    return sorted(path for path in _walk(catalog, ROOT_INO, "") if not path.endswith(LETTER.decode()))


async def content(world: World, catalog: SqliteCatalog, path: str) -> bytes:
    """The content of a file anywhere."""
    inode = find(catalog, path.encode())
    assert inode is not None, f"{path} does not exist"
    got = bytearray()
    while more := await world.node.files.read(inode.ino, len(got), 1 << 17):
        got += more
    return bytes(got)


def _walk(catalog: SqliteCatalog, ino: Ino, above: str) -> list[str]:
    found: list[str] = []
    for name, inode in catalog.names(ino, Cookie(0), 10_000):
        path = above + name.name.decode()
        found.append(path)
        if inode.is_dir:
            found += _walk(catalog, name.ino, path + "/")
    return found


async def _say_nothing(_done: int, _total: int) -> None:
    return
