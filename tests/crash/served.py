"""A mount that can be watched: the node of a real mount over a catalog and a spool on disk, with remarks in a trace.

Run as `python -m tests.crash.served MOUNTPOINT STATE SUPPLIERS TRACE`. Prints `ready` when it serves. Nothing of
the program is changed; the trace, STATE/TRACE, is made by subclasses of the catalog and of the kernel's handlers,
which do what those do.

Its suppliers are in this process, and keep their fragments in files below SUPPLIERS, so that they outlive it: ideal
ones, which have what they took. `-` stands for none.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes as Entry

from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.fuse import Operations, serve
from bitdustfs.edges.fuse_tuning import MountOptions
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch, boot_id, tune_process
from bitdustfs.engine.node import Node
from bitdustfs.engine.services import NodeOptions
from bitdustfs.engine.tree import Caller
from bitdustfs.model import Code, FragmentName, Root, Supplier, SupplierNo
from bitdustfs.testing.suppliers import MemorySuppliers
from bitdustfs.testing.swarm import make_identity
from tests.crash.trace import Trace

T = TypeVar("T")
SECRETS = VolumeSecrets(b"v" * 32)
_SUPPLIERS = 3
_CODE = Code(2, 3)


class Stored(MutableMapping[tuple[SupplierNo, FragmentName], bytes]):
    """What ideal suppliers keep: a file for each fragment."""

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir(exist_ok=True)

    def __getitem__(self, key: tuple[SupplierNo, FragmentName]) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: tuple[SupplierNo, FragmentName], content: bytes) -> None:
        self._path(key).write_bytes(content)

    def __delitem__(self, key: tuple[SupplierNo, FragmentName]) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[tuple[SupplierNo, FragmentName]]:
        for path in self._place.iterdir():
            number, name = path.name.split("-")
            yield SupplierNo(int(number)), FragmentName(bytes.fromhex(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, key: tuple[SupplierNo, FragmentName]) -> Path:
        return self._place / f"{key[0]}-{key[1].hex()}"


class WatchedSuppliers(MemorySuppliers):
    """Ideal suppliers, as a node wants them, with remarks on what they acknowledge."""

    trace: Trace | None = None

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        if self.trace is None:
            await super().put(supplier, name, root, body)
            return
        number = self.trace.begin("put", {"supplier": supplier, "name": name.hex()})
        await super().put(supplier, name, root, body)
        self.trace.end("put", number, {})

    def __init__(self, count: int, stored: Stored | None) -> None:
        super().__init__(count, delay_s=0, stored=stored)
        self.on_lost: Callable[[SupplierNo], None] = lambda _supplier: None
        self.on_connected: list[Callable[[SupplierNo], None]] = []
        self.on_change: Callable[[], None] = lambda: None
        self.on_address: Callable[[SupplierNo, str], None] = lambda _supplier, _address: None

    async def run(self) -> None:
        await trio.sleep_forever()

    async def wait_for_change(self) -> None:
        """They never change."""
        await trio.sleep_forever()

    def nudge(self) -> None:
        return

    def add(self, row: Supplier) -> None:
        return

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        held = sorted(name for number, name in self.stored if number == supplier and name > after)
        return [(name, len(self.stored[supplier, name])) for name in held]


class WatchedCatalog(SqliteCatalog):
    """A catalog that remarks on its commits and syncs."""

    trace: Trace | None = None

    def commit(self) -> None:
        if self.trace is None or not self.pending:
            super().commit()
            return
        number = self.trace.begin("commit", {})
        super().commit()
        self.trace.end("commit", number, {})

    async def harden(self) -> None:
        if self.trace is None:
            await super().harden()
            return
        number = self.trace.begin("harden", {})
        await super().harden()
        self.trace.end("harden", number, {})


class WatchedOperations(Operations):
    """Handlers that remark on what changes something or makes it durable, before it is done and before the answer."""

    trace: Trace

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext) -> Entry:
        facts = {"parent": parent_inode, "name": name.hex(), "mode": mode}
        return await self._watched("make", facts, super().mknod(parent_inode, name, mode, rdev, ctx))

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, Entry]:
        facts = {"parent": parent_inode, "name": name.hex(), "mode": mode}
        return await self._watched("make", facts, super().create(parent_inode, name, mode, flags, ctx))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> Entry:
        facts = {"parent": parent_inode, "name": name.hex()}
        return await self._watched("mkdir", facts, super().mkdir(parent_inode, name, mode, ctx))

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext) -> Entry:
        facts = {"parent": parent_inode, "name": name.hex()}
        return await self._watched("symlink", facts, super().symlink(parent_inode, name, target, ctx), target)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext) -> Entry:
        facts = {"node": inode, "parent": new_parent_inode, "name": new_name.hex()}
        return await self._watched("link", facts, super().link(inode, new_parent_inode, new_name, ctx))

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        facts = {"parent": parent_inode, "name": name.hex()}
        return await self._watched("unlink", facts, super().unlink(parent_inode, name, ctx))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        facts = {"parent": parent_inode, "name": name.hex()}
        return await self._watched("rmdir", facts, super().rmdir(parent_inode, name, ctx))

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        facts = {
            "parent": parent_inode_old,
            "name": name_old.hex(),
            "new_parent": parent_inode_new,
            "new_name": name_new.hex(),
            "flags": flags,
        }
        done = super().rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx)
        return await self._watched("rename", facts, done)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        done = super().setattr(inode, attr, fields, fh, ctx)
        if not fields.update_size:
            return await done
        return await self._watched("resize", {"node": inode, "size": attr.st_size}, done)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        done = super().open(inode, flags, ctx)
        if not flags & os.O_TRUNC:
            return await done
        return await self._watched("resize", {"node": inode, "size": 0}, done)  # the kernel sends no setattr then

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._watched("write", {"node": fh, "at": off}, super().write(fh, off, buf), bytes(buf))

    async def fsync(self, fh: int, datasync: bool) -> None:
        return await self._watched("fsync", {"node": fh}, super().fsync(fh, datasync))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return await self._watched("fsyncdir", {"node": fh}, super().fsyncdir(fh, datasync))

    async def _watched(self, what: str, facts: Mapping[str, object], done: Awaitable[T], content: bytes = b"") -> T:
        number = self.trace.begin(what, facts, content)
        try:
            result = await done
        except pyfuse3.FUSEError as error:
            self.trace.end(what, number, {"errno": error.errno})
            raise
        entry = result[1] if isinstance(result, tuple) else result
        self.trace.end(what, number, {"node": entry.st_ino} if isinstance(entry, Entry) else {})
        return result


@dataclass(frozen=True, slots=True)
class Opened:
    """A node that can be run, and what it stands on."""

    catalog: SqliteCatalog
    node: Node
    suppliers: MemorySuppliers


@contextmanager
def opened(
    state: Path, suppliers: Path | None = None, *, boot: bytes = b"", trace: Trace | None = None
) -> Iterator[Opened]:
    """The node over what lies in a state directory, not running yet. Makes what is missing.

    Args:
        boot: tells one boot of the machine from another; empty: the real one.
    """
    path = state / "catalog.db"
    stored = Stored(suppliers) if suppliers is not None else None
    ideal = WatchedSuppliers(_SUPPLIERS if stored is not None else 0, stored)
    with closing(WatchedCatalog(path, create=not path.exists())) as catalog:
        if not catalog.suppliers():
            for row in ideal.rows():
                catalog.put_supplier(row)
            catalog.commit()
        with closing(DiskSpool(state / "spool")) as spool:
            node = Node(
                identity=make_identity("customer"),
                catalog=catalog,
                changes=SqliteChanges(),
                image=lambda: catalog.image(state / "catalog.image"),
                spool=spool,
                suppliers=ideal,
                crunch=ThreadCrunch(),
                entropy=SystemEntropy(),
                wall=SystemWall(),
                secrets=SECRETS,
                options=NodeOptions(
                    spool_limit=1 << 30, code=_CODE if stored is not None else None, boot=boot or boot_id()
                ),
            )
            node.tree.plant(None, Caller(uid=os.geteuid(), gid=os.getegid()))
            ideal.trace = catalog.trace = trace
            yield Opened(catalog, node, ideal)


async def main(mountpoint: str, state: Path, suppliers: Path | None, trace: str) -> None:
    """Mount, say so, serve until SIGTERM or umount. SIGUSR1: `Site.rest`, and say so."""
    tune_process()
    remarks = Trace(state / trace)
    with opened(state, suppliers, trace=remarks) as volume:
        node = volume.node
        ops = WatchedOperations(
            tree=node.tree, attributes=node.attributes, files=node.files, journal=node.journal, space=node.space
        )
        ops.trace = remarks
        async with node.running(), trio.open_nursery() as nursery:
            await nursery.start(_serve, nursery.cancel_scope, ops, mountpoint)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
                print("ready", flush=True)
                async for number in signals:
                    if number == signal.SIGTERM:
                        nursery.cancel_scope.cancel()
                    else:
                        if suppliers is not None:
                            await node.writer.flush()
                        await node.files.collect()
                        print("rested", flush=True)


async def _serve(
    scope: trio.CancelScope, ops: Operations, mountpoint: str, *, task_status: trio.TaskStatus[None]
) -> None:
    await serve(ops, mountpoint, MountOptions(), stop_patience_s=0.5, task_status=task_status)
    scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]), None if sys.argv[3] == "-" else Path(sys.argv[3]), sys.argv[4])
