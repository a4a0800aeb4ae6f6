"""A mount without suppliers: the real name space and the real files over a real catalog and a spool on disk.

Run as `python -m tests.mount.standin MOUNTPOINT STATE [OPTION…]`. Prints `ready` when it serves. For tests of what
the kernel and `edges.fuse` do together; everything that needs a network is tested with the real command line.

Reading a file that begins with `fault: HOW` fails in that way. SIGUSR1 drops the kernel's pages; SIGUSR2 prints how
many reads arrived, how often an extended attribute was asked for, and how often what `stat` tells.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.fuse import Deadlines, Operations, serve
from bitdustfs.edges.fuse_tuning import MountOptions
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.edges.system import boot_id
from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.files import Files
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.tree import Caller, Tree
from bitdustfs.errors import BlockLost, TooFewFragments
from bitdustfs.model import Code, Ino, Inode, Space


class _Nowhere:
    """Nothing is published, so nothing is fetched."""

    async def chunk(self, ino: Ino, index: int) -> bytes:
        raise AssertionError("nothing was published")

    def ahead(self, ino: Ino, indexes: Sequence[int], enough: int = 0) -> int:
        return enough

    @property
    def ahead_chunks(self) -> int:
        return 0


class _Wall:
    def now_ns(self) -> int:
        return time.time_ns()

    def awake_s(self) -> float:
        return time.monotonic()


class _Faulty(Files):
    """Files that fail to be read in the way that their first bytes say."""

    reads = 0

    def read_here(self, ino: Ino, offset: int, length: int) -> None:
        return None

    async def read(self, ino: Ino, offset: int, length: int) -> bytes:
        self.reads += 1
        content = await super().read(ino, offset, length)
        if content.startswith(b"fault: "):
            await _fail(content[7:].strip().decode())
        return content


class _Counting(Attributes):
    """Attributes that count how often the kernel asks for an extended one."""

    asked = 0

    def xattr(self, ino: Ino, name: bytes) -> bytes:
        self.asked += 1
        return super().xattr(ino, name)


class _CountingTree(Tree):
    """A tree that counts how often the kernel asks for a name or for attributes."""

    asked = 0

    def attributes(self, ino: Ino) -> Inode:
        self.asked += 1
        return super().attributes(ino)


async def _fail(how: str) -> None:
    match how:
        case "bug":
            raise ZeroDivisionError("a handler with a bug")
        case "lost":
            raise BlockLost(block="1f", have=1, need=3)
        case "unavailable":
            raise TooFewFragments(block="1f", have=1, need=3, missing="s2, s3")
        case "never":
            await trio.sleep_forever()
        case "group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fail, "unavailable")
                await trio.sleep_forever()


async def main(mountpoint: str, state: Path, words: Iterable[str]) -> None:
    """Mount, say so, serve until SIGTERM or umount."""
    catalog = SqliteCatalog(state / "catalog", create=not (state / "catalog").exists())
    journal = Journal(catalog)
    files = _Faulty(catalog, DiskSpool(state / "spool"), journal, _Wall(), _Nowhere(), spool_limit=8 << 30)
    tree = _CountingTree(catalog, journal, files, _Wall())
    files.on_published = tree.published
    tree.plant(Code(1, 1), Caller(uid=0, gid=0))
    tree.lives.start()
    files.start(boot_id())
    attributes = _Counting(catalog, journal, files, _Wall())
    ops = Operations(
        tree=tree,
        attributes=attributes,
        files=files,
        journal=journal,
        space=lambda: Space(total_bytes=3 << 30, free_bytes=1 << 30, files=catalog.count_inodes()),
        deadlines=Deadlines(read_s=300.0 if "patient" in words else 1.0),
    )
    options = MountOptions(allow_other="allow_other" in words, read_only="ro" in words)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        nursery.start_soon(files.run)
        nursery.start_soon(files.keep_hard)
        await nursery.start(_serve, nursery.cancel_scope, ops, mountpoint, options)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) as signals:
            print("ready", flush=True)
            async for number in signals:
                if number == signal.SIGTERM:
                    nursery.cancel_scope.cancel()
                elif number == signal.SIGUSR2:
                    print(files.reads, attributes.asked, tree.asked, flush=True)
                else:
                    print("invalidated", await ops.invalidate_pages(), flush=True)
    catalog.close()


async def _serve(
    scope: trio.CancelScope,
    ops: Operations,
    mountpoint: str,
    options: MountOptions,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    await serve(ops, mountpoint, options, stop_patience_s=0.5, task_status=task_status)
    scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
