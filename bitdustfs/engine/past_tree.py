"""The tree of the past: what snapshots of the volume show, and forks (engine/forks), to be read only.

Below the root of the volume there are two directories that no listing of the root shows, and in them one directory
for each snapshot, and for each fork. Inodes in it have numbers of the past (core/past). What a snapshot shows never
changes; when it is deleted, everything in it is stale at once.
"""

from __future__ import annotations

import errno
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from bitdustfs.core.past import FORKS_INO, SNAPSHOTS_INO, TOPS, at, split
from bitdustfs.core.ranges import chunk_count, chunk_parts
from bitdustfs.engine.fileread import Fetch
from bitdustfs.errors import FileError, NotFound
from bitdustfs.model import (
    BLOCK_CHUNKS,
    CHUNK_BYTES,
    HOLE,
    ROOT_INO,
    ChunkRow,
    Cookie,
    Ino,
    Inode,
    Name,
    Snapshot,
    SnapshotKind,
)
from bitdustfs.ports import Catalog

SNAPSHOTS_NAME: Final = b".snapshots"
FORKS_NAME: Final = b".forks"
TOP_NAMES: Final = {SNAPSHOTS_NAME: SNAPSHOTS_INO, FORKS_NAME: FORKS_INO}  # at the root
_STREAMS = 64  # files that are being read in sequence


class PastTree:
    """Looking at snapshots.

    Args:
        fetch: brings published chunks.
        is_here: a chunk that this machine still has; None: it does not.
    """

    def __init__(self, catalog: Catalog, fetch: Fetch, here: Callable[[ChunkRow], bytes | None]) -> None:
        self._catalog = catalog
        self._fetch = fetch
        self._here = here
        self._next: OrderedDict[Ino, int] = OrderedDict()  # where the next read would go on

    def lookup(self, parent: Ino, name: bytes) -> Inode:
        """What a name shows. Raises FileError: ENOENT, ENOTDIR, ESTALE."""
        if name in (b".", b".."):
            return self.attributes(parent if name == b"." else self.parent_of(parent))
        if parent in TOPS:
            for each in self._below(parent):
                if each.name.encode() == name:
                    return self._inode(at(each.generation, ROOT_INO))
            raise FileError(errno=errno.ENOENT, what="no such snapshot")
        self._check(parent)
        found = self._catalog.name(parent, name)
        if found is None:
            if not self._inode(parent).is_dir:
                raise FileError(errno=errno.ENOTDIR, what="not a directory")
            raise FileError(errno=errno.ENOENT, what="no such name in this snapshot")
        return self._inode(found.ino)

    def attributes(self, ino: Ino) -> Inode:
        """An inode as it was, or the directory of all snapshots, or forks. Raises FileError: ESTALE."""
        if ino in TOPS:
            return self._directory(ino)
        self._check(ino)
        return self._inode(ino)

    def listing(self, ino: Ino, after: Cookie, limit: int) -> Sequence[tuple[Name, Inode]]:
        """Up to `limit` names of a directory with cookies above `after`, in their order, without `.` and `..`."""
        if ino not in TOPS:
            self._check(ino)
            return self._catalog.names(ino, after, limit)
        later = [each for each in self._below(ino) if each.generation > after][:limit]
        roots = [(each, self._inode(at(each.generation, ROOT_INO))) for each in later]
        return [(Name(ino, each.name.encode(), root.ino, Cookie(each.generation)), root) for each, root in roots]

    def parent_of(self, ino: Ino) -> Ino:
        """The directory that a directory is in."""
        if ino in TOPS:
            return ROOT_INO
        generation, then = split(ino)
        if then == ROOT_INO:
            return (
                FORKS_INO if any(each.generation == generation for each in self._below(FORKS_INO)) else SNAPSHOTS_INO
            )
        names = self._catalog.names_of(ino)
        return names[0].parent if names else ino

    def readlink(self, ino: Ino) -> bytes:
        """The target of a symlink."""
        inode = self.attributes(ino)
        if not inode.is_symlink:
            raise FileError(errno=errno.EINVAL, what="not a symlink")
        return inode.target

    def xattr(self, ino: Ino, name: bytes) -> bytes:
        """The value of an extended attribute. Raises FileError: ENODATA, ESTALE."""
        value = dict(self.xattrs(ino)).get(name)
        if value is None:
            raise FileError(errno=errno.ENODATA, what="no such attribute in this snapshot")
        return value

    def xattrs(self, ino: Ino) -> Sequence[tuple[bytes, bytes]]:
        """All (name, value) of an inode."""
        if ino in TOPS:
            return ()
        self._check(ino)
        return self._catalog.xattrs(ino)

    async def read(self, ino: Ino, offset: int, length: int) -> bytes:
        """Read up to `length` bytes. Raises what `FileReader.read` does; FileError: ESTALE."""
        inode = self.attributes(ino)
        end = min(inode.size, offset + length)
        if offset >= end:
            return b""
        self._follow(inode, offset, end)
        out = []
        for part in chunk_parts(offset, end - offset):
            chunk = self._local(ino, part.index)
            if chunk is None:
                chunk = await self._fetch.chunk(ino, part.index)
                self._check(ino)
            out.append(chunk[part.start : part.end].ljust(part.end - part.start, b"\0"))
        return out[0] if len(out) == 1 else b"".join(out)

    # -- private -------------------------------------------------------------------------------------------

    def _snapshots(self) -> list[Snapshot]:
        there = self._catalog.snapshots()
        return [each for each in there if not each.is_gone and each.kind is not SnapshotKind.COMING]

    def _below(self, top: Ino) -> list[Snapshot]:
        return [each for each in self._snapshots() if each.is_fork == (top == FORKS_INO)]

    def _directory(self, top: Ino) -> Inode:
        root = self._catalog.inode(ROOT_INO)
        if root is None:
            raise NotFound(what="the volume has no root")
        shown = self._below(top)
        newest_ns = max((each.made_ns for each in shown), default=root.ctime_ns)
        return replace(
            root,
            ino=top,
            mode=stat.S_IFDIR | root.mode & 0o555,
            nlink=2 + len(shown),
            size=len(shown),
            mtime_ns=newest_ns,
            ctime_ns=newest_ns,
        )

    def _check(self, ino: Ino) -> None:
        """Refuse what is in a snapshot that was deleted: rows of it may be missing already."""
        generation = split(ino)[0]
        if not any(each.generation == generation for each in self._snapshots()):
            raise FileError(errno=errno.ESTALE, what="the snapshot was deleted")

    def _inode(self, ino: Ino) -> Inode:
        inode = self._catalog.inode(ino)
        if inode is None:
            raise FileError(errno=errno.ESTALE, what="no such inode in this snapshot")
        return inode

    def _local(self, ino: Ino, index: int) -> bytes | None:
        rows = self._catalog.map_rows(ino, index, index)
        row = self._catalog.chunk(rows[0].chunk) if rows and rows[0].chunk != HOLE else None
        return self._here(row) if row is not None else None

    def _follow(self, inode: Inode, offset: int, end: int) -> None:
        """Fetch ahead of who reads in sequence."""
        goes_on = self._next.pop(inode.ino, 0) == offset
        self._next[inode.ino] = end
        if len(self._next) > _STREAMS:
            self._next.popitem(last=False)
        if goes_on and offset:
            first = (end - 1) // CHUNK_BYTES + 1
            last = min(first + 2 * BLOCK_CHUNKS, chunk_count(inode.size))
            self._fetch.ahead(inode.ino, range(first, last))
