"""The kernel's requests to who only reads: answered from the tree of the view, and EROFS for every change.

`edges.fuse` hands over each request while there is a view. The view becomes another one without any request of the
kernel's, so after each step it is told to forget the names, attributes and pages that are others now. An answer of
before may still be under way then, so it keeps none for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bitdustfs.edges.fuse_reading import PAGE, Context, Entry, ReadingOperations, Reply, cookie_of
from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode, Name

READER_CACHE_S = 10  # (tune) that the kernel keeps names and attributes


class ViewOperations(ReadingOperations):
    """See `ReadingOperations`.

    Args:
        missing: how it is told that a name shows nothing.
        opened: what is answered when a file was opened: its handle, and whether pages of it may be kept.
        top: the entry of what a name at the root leads to that no listing shows, if it leads to something.
        open_before: directories that were opened before there was a view, by handle.
        handles: of open directories, none of them one of these.
    """

    def __init__(
        self,
        tree: ViewTree,
        attributes: Attributes,
        entry: Callable[[Inode], Entry],
        *,
        missing: Callable[[], Entry],
        reply: Reply,
        opened: Callable[[int, bool], Any],
        top: Callable[[bytes], Entry | None] | None,
        open_before: Mapping[int, Ino],
        handles: Iterator[int],
    ) -> None:
        super().__init__(tree, entry, reply, why="this machine only reads the volume")
        self.tree = tree
        self._attributes = attributes
        self._missing = missing
        self._opened = opened
        self._top = top
        self._handles = handles
        for handle, directory in open_before.items():
            tree.listings.opened(handle, directory, is_begun=True)

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        inode = self.tree.lookup(Ino(parent_inode), name)
        if inode is not None:
            entry = self._told(inode)
            if inode.ino != ROOT_INO:
                self.tree.remember(inode.ino)
            return entry
        if parent_inode == ROOT_INO and self._top is not None and (top := self._top(name)) is not None:
            return top
        missing = self._missing()
        missing.entry_timeout = READER_CACHE_S
        return missing

    async def opendir(self, inode: int, ctx: Context) -> int:
        directory, handle = Ino(await super().opendir(inode, ctx)), next(self._handles)
        self.tree.listings.opened(handle, directory)
        return handle

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        if start_id == 0:  # also after rewinddir, which wants to see what is shown by now
            self.tree.listings.begin(fh)
        self.tree.listings.asked(fh, cookie_of(start_id))
        await super().readdir(fh, start_id, token)

    async def releasedir(self, fh: int) -> None:
        self.tree.listings.closed(fh)

    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return self._attributes.xattr(self.tree.ino_of(Ino(inode)), name)

    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return self._attributes.xattr_names(self.tree.ino_of(Ino(inode)))

    async def open(self, inode: int, flags: int, ctx: Context) -> Any:
        self._admit(flags)
        self.tree.opened(Ino(inode))
        return self._opened(inode, not self.tree.is_stale(Ino(inode)))

    async def release(self, fh: int) -> None:
        self.tree.closed(Ino(fh))

    def _told(self, inode: Inode) -> Entry:
        entry = self._entry(inode)
        entry.entry_timeout = entry.attr_timeout = READER_CACHE_S
        return entry

    def _directory(self, fh: int) -> Ino:
        return self.tree.listings.directory(fh)

    def _page(self, fh: int, after: Cookie) -> Sequence[tuple[Name, Inode]]:
        return self.tree.listings.page(fh, after, PAGE)

    def _told_in(self, fh: int, inode: Inode) -> Entry:
        entry = self._told(inode)
        if self.tree.listings.is_behind(fh):  # the kernel asks again what the name shows by now
            entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _listed(self, inode: Inode) -> None:
        self.tree.remember(inode.ino)
