"""A machine with all that its disk has, and the process on it, if one runs: it is mounted, used, killed, and again.

A kill leaves what the process had committed, and nothing that it does from then on reaches its disk or a supplier. A
power loss leaves only what it had made durable. What a person was doing there ends with it.
"""

from __future__ import annotations

import copy
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import trio

from bitdustfs.cli.home_catalog import make_own
from bitdustfs.core.adoption import Plan
from bitdustfs.core.past import at, split
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.aside import Aside, OldState
from bitdustfs.engine.claim import Claimed
from bitdustfs.errors import BitdustError
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import CALLER, SECRETS, World, read_whole_of
from tests.engine.machines import Asking, Machine
from tests.engine.setback import fetch, look

_TAILS = ("", "-wal")
_ALL = 10_000


class Body:
    """See above.

    Attributes:
        written: what was written here durably, by name.
        olds: states that are to be put aside: catalog, spool and plan.
        dies_at: the step of its work at which it dies next; "": at none.
        loses_power: at that, too.
        world_nursery: outlives it.
    """

    world_nursery: trio.Nursery

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.written: dict[str, bytes] = {}
        self.olds: list[tuple[Path, MemorySpool, Plan]] = []
        self.dies_at = ""
        self.loses_power = False
        self.died_at: list[str] = []
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._lives = 0
        self._hard = b""  # its catalog, as it survives a power loss
        self._persons: list[trio.CancelScope] = []  # what they do here
        self._is_dead = False

    @property
    def is_mounted(self) -> bool:
        return self._scope is not None and not self._is_dead

    async def mount(self, nursery: trio.Nursery, *, takes_over: bool, patience_s: float) -> str:
        """What `bitdustfs mount` does. Says how its claim ended."""
        machine = self.machine
        machine.takes_over = takes_over
        await self._ends()
        claimed = await Asking(machine, for_s=patience_s).run()
        if claimed is Claimed.OTHERS:
            return str(claimed.value)
        with closing(SqliteCatalog(machine.path)) as catalog:
            found = await look(self.world, catalog, machine.identity)
            if found is None:
                make_own(catalog)
            else:
                self._lives += 1
                new = machine.path.with_name(f"{machine.identity.node.hex()[:4]}-{self._lives}")
                with suppress(BitdustError):
                    plan = await fetch(self.world, catalog, found, new)
                    if self._dies("fetched"):
                        return "died"
                    self.olds.append((machine.path, machine.spool, plan))
                    machine.path, machine.spool = new, MemorySpool()
                    if self._dies("adopted"):
                        return "died"
        self._scope, self._ended, self._is_dead = trio.CancelScope(), trio.Event(), False
        await nursery.start(self._run, self._scope)
        return str(claimed.value)

    async def umount(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
        await self._ends()

    async def kill(self, *, power: bool = False) -> None:
        """Nothing that it does from here on reaches its disk or a supplier; with `power`, nor what is not durable."""
        if not self.is_mounted:
            return
        self._is_dead = True
        machine, self._breaks = self.machine, dict(self.world.swarm.network._breaks)
        for scope in self._persons:
            scope.cancel()
        machine.cut()
        machine.node.holding.has_let_go = True
        self._kept, self._olds = copy.deepcopy(machine.spool), list(self.olds)
        aside = machine.path.with_name(machine.path.name + ".dead")
        if power:
            self._kept.lose_power()
            aside.write_bytes(self._hard)
        for tail in () if power else _TAILS:
            if machine.path.with_name(machine.path.name + tail).exists():
                shutil.copy(machine.path.with_name(machine.path.name + tail), str(aside) + tail)
        await self.umount()

    @contextmanager
    def person(self) -> Iterator[None]:
        """What somebody does here ends when the process dies. Refusals are nothing to worry about."""
        with trio.CancelScope() as scope, suppress(BitdustError):
            self._persons.append(scope)
            try:
                yield
            finally:
                self._persons.remove(scope)

    async def write(self, name: str, content: bytes) -> None:
        """Write a file, durably, if changes are taken here."""
        if not self.is_mounted:
            return
        node = self.machine.node
        with self.person():
            node.journal.admit_request()
            await self.machine.write(name, content)
            inode = node.tree.lookup(ROOT_INO, name.encode())
            assert inode is not None
            await node.files.fsync(inode.ino)
            self.written[name] = content

    async def go_back(self, generation: int, kept_as: str) -> str:
        """Have the tree be as a generation has it, once a snapshot keeps it whole. Says how far it came."""
        node = self.machine.node
        node.journal.admit_request()
        _made, left = await node.snapshots.create(kept_as, 60)
        if left:
            return "nothing: too little is sent"
        wanted: set[tuple[Ino, bytes]] = set()
        await self._copy(at(generation, ROOT_INO), ROOT_INO, wanted)
        await self._delete_others(ROOT_INO, wanted)
        await node.journal.durable()
        return "whole"

    async def shown(self) -> dict[str, bytes]:
        """All files that it shows, wherever they are, by name."""
        node, found = self.machine.node, dict[str, bytes]()
        for name, inode, is_then in self._files():
            try:
                found[name] = await (
                    node.past.read(inode.ino, 0, inode.size) if is_then else read_whole_of(node, inode.ino)
                )
            except BitdustError as error:
                which = {each.generation: each.name for each in node.snapshots.all()}.get(split(inode.ino)[0], "now")
                error.add_note(f"{name!r} of {which!r}")
                raise
        return found

    # -- private ---------------------------------------------------------------------------------------------

    async def _ends(self) -> None:
        if self._scope is not None:
            await self._ended.wait()

    async def _run(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with ExitStack() as stack:
            async with self.machine.mounted(wait=False) as node:
                self._remember()
                node.handover.on_step = self._step
                node.forks.on_step = self._grafts
                for number, (path, spool, plan) in enumerate(list(self.olds)):
                    job = self._job(number, path, spool, plan, stack)
                    node.services[f"aside {number}"] = job.run
                    node.reporter.aside.append(job)
                with scope:
                    async with trio.open_nursery() as nursery:
                        for service in list(node.services):
                            if service.startswith("aside"):
                                nursery.start_soon(node._keep_running, service, node.services[service])
                        task_status.started()
                        await trio.sleep_forever()
        if self._is_dead:
            self._come_back()
        self._scope = None
        self._ended.set()

    def _come_back(self) -> None:
        """Have the disk be as it was when it died."""
        path = self.machine.path
        for tail in (*_TAILS, "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
        for tail in _TAILS:
            dead = path.with_name(path.name + ".dead" + tail)
            if dead.exists():
                shutil.move(dead, path.with_name(path.name + tail))
        self.machine.spool, self.olds = self._kept, self._olds
        self.world.swarm.network._breaks = self._breaks

    def _remember(self) -> None:
        """Note what of the catalog is durable."""
        catalog = self.machine.catalog
        harden = catalog.harden
        self._hard = catalog.connection.serialize("main")

        async def hardened() -> None:
            now = catalog.connection.serialize("main")
            await harden()
            self._hard = now

        catalog.harden = hardened  # type: ignore[method-assign]

    def _job(self, number: int, path: Path, spool: MemorySpool, plan: Plan, stack: ExitStack) -> Aside:
        catalog = stack.enter_context(closing(SqliteCatalog(path)))
        side = self.world.swarm.customer_side(list(catalog.suppliers()), self.machine.identity)

        async def let_go() -> None:
            await trio.lowlevel.checkpoint()
            self.olds = [each for each in self.olds if each[0] != path]

        state = OldState(f"{number}-{path.name}", path.name, plan, catalog, spool, side, b"boot", let_go)
        return Aside(state, self.machine.node, self.machine.catalog, SECRETS, InlineCrunch(), self.world.swarm.wall)

    async def _step(self, where: str) -> None:
        if self._dies(where):
            await trio.sleep_forever()

    def _grafts(self, where: str) -> None:
        self._dies(where)

    def _dies(self, where: str) -> bool:
        """Say whether this is where it dies. If it is mounted, that happens before anything else comes about."""
        if where != self.dies_at or self._is_dead:
            return False
        self.dies_at = ""
        self.died_at.append(where)
        if self._scope is not None:
            self.world_nursery.start_soon(lambda: self.kill(power=self.loses_power))
        return True

    async def _copy(self, there: Ino, here: Ino, wanted: set[tuple[Ino, bytes]]) -> None:
        """Copy what is not here, a file under another name at first."""
        node = self.machine.node
        for entry, inode in node.past.listing(there, Cookie(0), _ALL):
            name = entry.name
            wanted.add((here, name))
            found = node.tree.lookup(here, name)
            if inode.is_dir:
                made = found or node.tree.mkdir(here, name, inode.mode, CALLER)
                await self._copy(inode.ino, made.ino, wanted)
            elif found is None:
                content = await node.past.read(inode.ino, 0, inode.size)
                part = node.tree.mknod(here, b".part of " + name, stat.S_IFREG | 0o644, CALLER)
                await node.files.write(part.ino, 0, content)
                await node.files.fsync(part.ino)
                await node.tree.rename(here, b".part of " + name, here, name)

    async def _delete_others(self, here: Ino, wanted: set[tuple[Ino, bytes]]) -> None:
        tree = self.machine.node.tree
        for entry, inode in list(tree.listing(here, Cookie(0), _ALL)):
            if inode.is_dir:
                await self._delete_others(inode.ino, wanted)
            if (here, entry.name) in wanted:
                continue
            if inode.is_dir:
                tree.rmdir(here, entry.name)
            else:
                tree.unlink(here, entry.name)
            await trio.lowlevel.checkpoint()

    def _files(self) -> Iterator[tuple[str, Inode, bool]]:
        """Name, inode, and whether it is in a snapshot, of all files; the tree of now comes last."""
        node = self.machine.node

        def walk(directory: Ino) -> Iterator[tuple[str, Inode, bool]]:
            then = split(directory)[0] > 0
            for entry, inode in (node.past if then else node.tree).listing(directory, Cookie(0), _ALL):
                if inode.is_dir:
                    yield from walk(inode.ino)
                else:
                    yield entry.name.decode(), inode, then

        for snapshot in node.snapshots.all():
            yield from walk(at(snapshot.generation, ROOT_INO))
        yield from walk(ROOT_INO)
