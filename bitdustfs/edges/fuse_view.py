"""The kernel's requests to who only reads: answered from the tree of the view, and EROFS for every change.

`edges.fuse` hands over each request while there is a view. The view becomes another one without any request of the
kernel's, so after each step it is told to forget the names, attributes and pages that are others now. An answer of
before may still be under way then, so it keeps none for long.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.past_tree import SNAPSHOTS_NAME
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.errors import FileError
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode

READER_CACHE_S = 10  # (tune) that the kernel keeps names and attributes
Entry = Any  # pyfuse3's attributes of an entry; only `edges.fuse` knows pyfuse3
Context = Any
_DOTS = 2  # offsets of a listing before the first cookie
_PAGE = 24


class ViewOperations:
    """The handlers, by the names that `pyfuse3.Operations` has for them.

    Args:
        entry: how the kernel is told of an inode.
        missing: how it is told that a name shows nothing.
        reply: adds an entry to a listing, and says whether it had room.
        opened: what is answered when a file was opened: its handle, and whether pages of it may be kept.
        snapshots: the entry of the directory of all snapshots.
    """

    def __init__(
        self,
        tree: ViewTree,
        attributes: Attributes,
        entry: Callable[[Inode], Entry],
        *,
        missing: Callable[[], Entry],
        reply: Callable[[Any, bytes, Entry, int], bool],
        opened: Callable[[int, bool], Any],
        snapshots: Callable[[], Entry] | None,
    ) -> None:
        self.tree = tree
        self._attributes = attributes
        self._entry = entry
        self._missing = missing
        self._reply = reply
        self._opened = opened
        self._snapshots = snapshots

    def handler(self, name: str) -> Callable[..., Any]:
        """The handler of a request; for a change, one that refuses it."""
        return getattr(self, name, None) or self._refuse

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        inode = self.tree.lookup(Ino(parent_inode), name)
        if inode is not None:
            entry = self._told(inode)
            if inode.ino != ROOT_INO:
                self.tree.remember(inode.ino)
            return entry
        if name == SNAPSHOTS_NAME and parent_inode == ROOT_INO and self._snapshots is not None:
            return self._snapshots()
        missing = self._missing()
        missing.entry_timeout = READER_CACHE_S
        return missing

    async def getattr(self, inode: int, ctx: Context) -> Entry:
        return self._told(self.tree.attributes(Ino(inode)))

    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return self.tree.readlink(Ino(inode))

    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return self._attributes.xattr(self.tree.ino_of(Ino(inode)), name)

    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return self._attributes.xattr_names(self.tree.ino_of(Ino(inode)))

    async def opendir(self, inode: int, ctx: Context) -> int:
        self.tree.attributes(Ino(inode))
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        directory = Ino(fh)
        for offset, name, ino in ((1, b".", directory), (2, b"..", self.tree.parent_of(directory))):
            if offset > start_id and not self._reply(token, name, self._told(self.tree.attributes(ino)), offset):
                return
        after = Cookie(max(0, start_id - _DOTS))
        while page := self.tree.listing(directory, after, _PAGE):
            for shown, inode in page:
                if not self._reply(token, shown.name, self._told(inode), shown.cookie + _DOTS):
                    return
                self.tree.remember(inode.ino)
                after = shown.cookie

    async def releasedir(self, fh: int) -> None:
        return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def open(self, inode: int, flags: int, ctx: Context) -> Any:
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            await self._refuse()
        self.tree.opened(Ino(inode))
        return self._opened(inode, not self.tree.is_stale(Ino(inode)))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self.tree.read(Ino(fh), off, size)

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def release(self, fh: int) -> None:
        self.tree.closed(Ino(fh))

    async def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise FileError(errno=errno.EROFS, what="this machine only reads the volume")

    def _told(self, inode: Inode) -> Entry:
        entry = self._entry(inode)
        entry.entry_timeout = entry.attr_timeout = READER_CACHE_S
        return entry
