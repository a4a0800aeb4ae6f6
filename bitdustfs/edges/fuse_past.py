"""The kernel's requests for what is in snapshots: answered from the tree of the past, and EROFS for every change.

`edges.fuse` hands over each request whose first number, an inode or a handle, is one of the past. Of what is in a
snapshot the kernel may keep everything for long, for it never changes; of which snapshots there are it keeps nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

from bitdustfs.core.past import SNAPSHOTS_INO
from bitdustfs.engine.past_tree import PastTree
from bitdustfs.errors import FileError
from bitdustfs.model import Cookie, Ino, Inode

Entry = Any  # pyfuse3's attributes of an entry; only `edges.fuse` knows pyfuse3
Context = Any
_DOTS = 2  # offsets of a listing before the first cookie
_PAGE = 24


class PastOperations:
    """The handlers, by the names that `pyfuse3.Operations` has for them.

    Args:
        entry: how the kernel is told of an inode.
        reply: adds an entry to a listing, and says whether it had room.
        opened: what is answered when a file was opened, with this handle.
    """

    def __init__(
        self,
        tree: PastTree,
        entry: Callable[[Inode], Entry],
        *,
        reply: Callable[[Any, bytes, Entry, int], bool],
        opened: Callable[[int], Any],
    ) -> None:
        self._tree = tree
        self._entry = entry
        self._reply = reply
        self._opened = opened

    def handler(self, name: str) -> Callable[..., Any]:
        """The handler of a request; for a change, one that refuses it."""
        return getattr(self, name, None) or self._refuse

    def top(self) -> Entry:
        """The directory of all snapshots."""
        return self._told(self._tree.attributes(SNAPSHOTS_INO))

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        entry = self._told(self._tree.lookup(Ino(parent_inode), name))
        if parent_inode == SNAPSHOTS_INO:
            entry.entry_timeout = 0
        return entry

    async def getattr(self, inode: int, ctx: Context) -> Entry:
        return self._told(self._tree.attributes(Ino(inode)))

    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return self._tree.readlink(Ino(inode))

    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return self._tree.xattr(Ino(inode), name)

    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return [name for name, _ in self._tree.xattrs(Ino(inode))]

    async def opendir(self, inode: int, ctx: Context) -> int:
        self._tree.attributes(Ino(inode))
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        directory = Ino(fh)
        for offset, name, ino in ((1, b".", directory), (2, b"..", self._tree.parent_of(directory))):
            if offset > start_id:
                entry = self._told(self._tree.attributes(ino if ino >= SNAPSHOTS_INO else directory))
                if not self._reply(token, name, entry, offset):
                    return
        after = Cookie(max(0, start_id - _DOTS))
        while page := self._tree.listing(directory, after, _PAGE):
            for shown, inode in page:
                entry = self._told(inode)
                if directory == SNAPSHOTS_INO:
                    entry.entry_timeout = 0
                if not self._reply(token, shown.name, entry, shown.cookie + _DOTS):
                    return
                after = shown.cookie

    async def releasedir(self, fh: int) -> None:
        return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def open(self, inode: int, flags: int, ctx: Context) -> Any:
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            await self._refuse()
        self._tree.attributes(Ino(inode))
        return self._opened(inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._tree.read(Ino(fh), off, size)

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def release(self, fh: int) -> None:
        return

    async def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise FileError(errno=errno.EROFS, what="a snapshot is never changed")

    def _told(self, inode: Inode) -> Entry:
        entry = self._entry(inode)
        if inode.ino == SNAPSHOTS_INO:
            entry.attr_timeout = 0
        return entry
