"""The simulated disk: a FUSE file system in memory that writes down all that is done to it, in order.

Run as `python -m tests.crash.recorder MOUNTPOINT LOGS`. It takes orders on stdin and answers each with a line of
JSON on stdout; `disk.Disk` is the other end.

* Every write reaches it at once: the kernel's write-back cache is off, and only memory maps are written late.
* Each directory below its root is the disk of one *case*. The order `begin` starts a log of its own for it.
* Every change and sync is a *point* with a name: what is done, and to which kind of file ("sync spool/*/*"). A
  write to a file called `trace…` is no change of the disk's state but a remark of the process that is watched; its
  point is named by the remark's first two words ("end fsync").
* An order makes the process that comes to the n-th passing of a point end by SIGKILL, before or after that change.
  From then on nothing that this process still has on its way is done or written down: the log ends where it died.
* Another order makes a point fail with an errno. A sync that failed has lost what it should have stored, as on
  Linux: the next one succeeds without having stored anything.

What it cannot do: hard links, devices, fallocate.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

from tests.crash.oplog import Did, Entry

TOTAL_BYTES = 64 << 30  # what statfs says
_KERNEL_CACHE_S = 3600.0  # all changes come through this kernel
_BLOCK = 4096
_NUMBER = re.compile("[0-9a-f-]+")
_RANDOM = re.compile(r"(?<=\.)[0-9a-f]{16}(?=\.)")


@dataclass(slots=True)
class Node:
    """A file or directory."""

    number: int
    mode: int
    name: bytes = b""
    parent: Node | None = None
    content: bytearray = field(default_factory=bytearray)
    children: dict[bytes, Node] = field(default_factory=dict)
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def path(self) -> list[str]:
        """Its names from the case on, without the case's own."""
        names: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            names.append(os.fsdecode(node.name))
            node = node.parent
        return names[::-1][1:]


@dataclass(slots=True)
class Order:
    """What happens when a point is passed for the `hit`-th time, counted from when the order was given."""

    point: str
    hit: int
    when: str = "before"
    code: int = 0  # errno to fail with; 0: kill
    times: int = 1
    seen: int = 0


class Recorder(pyfuse3.Operations):
    """The file system."""

    enable_writeback_cache = False

    def __init__(self, logs: Path) -> None:
        super().__init__()
        self._logs = logs
        self._log: BinaryIO | None = None
        self._nodes = {pyfuse3.ROOT_INODE: Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755)}
        self._handles: dict[int, tuple[Node, int]] = {}  # node, process that opened it
        self._next = 100
        self._points: Counter[str] = Counter()
        self._orders: list[Order] = []
        self._dead: set[int] = set()
        self.killed = 0  # the process that an order ended

    # -- orders --------------------------------------------------------------------------------------------

    def obey(self, order: dict[str, object]) -> dict[str, object]:
        """Do what the test says."""
        match order.pop("do"):
            case "begin":
                if self._log is not None:
                    self._log.close()
                self._log = (self._logs / str(order["name"])).open("wb", buffering=0)
                self._points.clear()
                self._orders.clear()
                for node in self._nodes.values():
                    node.content.clear()  # of earlier cases: only their logs are needed
                case = self._nodes[pyfuse3.ROOT_INODE].children[os.fsencode(str(order["name"]))]
                self._write_down(Entry(Did.MKDIR, case.number))
            case "order":
                self._orders.append(Order(**order))  # type: ignore[arg-type]
            case "points":
                return dict(self._points)
        return {"killed": self.killed}

    @contextmanager
    def _at(self, doing: str, place: str, pid: int, *, sync: int = 0) -> Iterator[None]:
        """Pass a point: whatever an order says happens before or after the block."""
        if pid in self._dead:
            raise FUSEError(errno.EIO)
        point = f"{doing} {place}".strip()
        self._points[point] += 1
        due = [order for order in self._orders if order.point == point]
        for order in due:
            order.seen += 1
            if order.code and order.hit <= order.seen < order.hit + order.times:
                if sync:
                    self._write_down(Entry(Did.BAD_SYNC, sync))
                raise FUSEError(order.code)
            if not order.code and order.seen == order.hit and order.when == "before":
                self._kill(pid)
                raise FUSEError(errno.EIO)
        yield
        for order in due:
            if not order.code and order.seen == order.hit and order.when == "after":
                self._kill(pid)

    def _kill(self, pid: int) -> None:
        self.killed = pid
        self._dead.add(pid)
        os.kill(pid, signal.SIGKILL)

    def _write_down(self, entry: Entry) -> None:
        if self._log is not None:
            self._log.write(entry.packed())

    # -- names ---------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self._nodes[parent_inode]
        node = {b".": parent, b"..": parent.parent or parent}.get(name) or parent.children.get(name)
        if node is None:
            missing = EntryAttributes()
            missing.entry_timeout = _KERNEL_CACHE_S
            return missing
        return _attributes(node)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return _attributes(self._make(parent_inode, name, mode, ctx))

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._make(parent_inode, name, mode, ctx)
        return self._opened(node, ctx), _attributes(node)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return _attributes(self._make(parent_inode, name, mode | stat.S_IFDIR, ctx))

    def _make(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        parent = self._nodes[parent_inode]
        if name in parent.children:
            raise FUSEError(errno.EEXIST)
        node = Node(self._next, mode, name, parent, mtime_ns=time.time_ns(), uid=ctx.uid, gid=ctx.gid)
        did = Did.MKDIR if node.is_dir else Did.MAKE
        with self._at(did.name.lower(), _place(node), _process(ctx.pid)):
            self._next += 1
            self._nodes[node.number] = parent.children[name] = node
            if not stat.S_ISSOCK(mode):
                self._write_down(Entry(did, node.number, parent.number, name))
        return node

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._remove(parent_inode, name, Did.UNLINK, ctx)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if self._child(parent_inode, name).children:
            raise FUSEError(errno.ENOTEMPTY)
        self._remove(parent_inode, name, Did.RMDIR, ctx)

    def _remove(self, parent_inode: int, name: bytes, did: Did, ctx: RequestContext) -> None:
        node = self._child(parent_inode, name)
        with self._at(did.name.lower(), _place(node), _process(ctx.pid)):
            del self._nodes[parent_inode].children[name]
            self._write_down(Entry(did, node.number, parent_inode, name))

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        node, target = self._child(parent_inode_old, name_old), self._nodes[parent_inode_new]
        if flags:
            raise FUSEError(errno.EINVAL)
        with self._at("rename", _place(Node(0, 0, name_new, target)), _process(ctx.pid)):
            del self._nodes[parent_inode_old].children[name_old]
            node.name, node.parent = name_new, target
            target.children[name_new] = node
            self._write_down(Entry(Did.RENAME, node.number, parent_inode_old, name_old, parent_inode_new, name_new))

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._opened(self._nodes[inode], ctx).fh

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        children = sorted(self._handles[fh][0].children.items(), key=lambda item: item[1].number)
        for name, node in children:
            if node.number > start_id and not pyfuse3.readdir_reply(token, name, _attributes(node), node.number):
                return

    async def releasedir(self, fh: int) -> None:
        del self._handles[fh]

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        node, pid = self._handles[fh]
        with self._at("syncdir", _place(node), pid):
            self._write_down(Entry(Did.SYNC_DIRECTORY, node.number))

    # -- attributes ----------------------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return _attributes(self._nodes[inode])

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._nodes[inode]
        if fields.update_size:
            with self._at("resize", _place(node), _process(ctx.pid)):
                self._resize(node, attr.st_size)
                self._write_down(Entry(Did.RESIZE, node.number, at=attr.st_size))
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_mtime:
            node.mtime_ns = attr.st_mtime_ns
        return _attributes(node)

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = _BLOCK
        answer.f_blocks = answer.f_bfree = answer.f_bavail = TOTAL_BYTES // _BLOCK
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 20
        answer.f_namemax = 255
        return answer

    # -- contents ------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._nodes[inode]
        if flags & os.O_TRUNC:
            with self._at("resize", _place(node), _process(ctx.pid)):
                self._resize(node, 0)
                self._write_down(Entry(Did.RESIZE, node.number))
        return self._opened(node, ctx)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self._handles[fh][0].content[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node, pid = self._handles[fh]
        with self._at(*_write_point(node, buf), pid):
            if len(node.content) < off:
                self._resize(node, off)
            node.content[off : off + len(buf)] = buf
            node.mtime_ns = time.time_ns()
            self._write_down(Entry(Did.WRITE, node.number, at=off, content=bytes(buf)))
        return len(buf)

    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        node, pid = self._handles[fh]
        with self._at("sync", _place(node), pid, sync=node.number):
            self._write_down(Entry(Did.SYNC, node.number))

    async def release(self, fh: int) -> None:
        del self._handles[fh]

    # -- private -------------------------------------------------------------------------------------------

    def _child(self, parent: int, name: bytes) -> Node:
        node = self._nodes[parent].children.get(name)
        if node is None:
            raise FUSEError(errno.ENOENT)
        return node

    def _opened(self, node: Node, ctx: RequestContext) -> FileInfo:
        self._next += 1
        self._handles[self._next] = node, _process(ctx.pid)
        return FileInfo(fh=self._next, keep_cache=True)

    def _resize(self, node: Node, size: int) -> None:
        del node.content[size:]
        node.content.extend(bytes(size - len(node.content)))


def _place(node: Node) -> str:
    """The kind of file that a node is: its path, with all that is counted or random as a star."""
    return "/".join("*" if _NUMBER.fullmatch(name) else _RANDOM.sub("*", name) for name in node.path())


def _write_point(node: Node, content: bytes) -> tuple[str, str]:
    words = content.split(b" ", 2)
    if node.name.startswith(b"trace") and words[0] in (b"begin", b"end") and len(words) == 3:
        return words[0].decode(), words[1].decode()  # else it is a piece of one: the kernel may cut it in two
    return "write", _place(node)


def _process(pid: int) -> int:
    """The process that a thread belongs to; it waits for us, so it is still there. 0: the kernel itself."""
    if not pid:
        return 0
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return pid
    return next(int(line.split()[1]) for line in lines if line.startswith("Tgid:"))


def _attributes(node: Node) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = node.number
    entry.st_mode = node.mode
    entry.st_nlink = 2 if node.is_dir else 1
    entry.st_uid, entry.st_gid = node.uid, node.gid
    entry.st_size = len(node.content)
    entry.st_blocks = -(-len(node.content) // 512)
    entry.st_blksize = _BLOCK
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = node.mtime_ns
    entry.entry_timeout = entry.attr_timeout = _KERNEL_CACHE_S
    return entry


async def main(mountpoint: str, logs: Path) -> None:
    """Mount, say so, and obey until stdin ends."""
    recorder = Recorder(logs)
    pyfuse3.init(recorder, mountpoint, {"default_permissions", "fsname=bitdustfs-test-disk"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            print(json.dumps({"ready": True}), flush=True)
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                print(json.dumps(recorder.obey(json.loads(line))), flush=True)
            pyfuse3.terminate()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
