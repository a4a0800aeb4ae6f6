"""The kernel's requests for what is in snapshots: answered from the tree of the past, and EROFS for every change.

`edges.fuse` hands over each request whose first number, an inode or a handle, is one of the past. Of what is in a
snapshot the kernel may keep everything for long, for it never changes; of which snapshots there are it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bitdustfs.core.past import FIRST_PAST, TOPS
from bitdustfs.edges.fuse_reading import Context, Entry, ReadingOperations, Reply
from bitdustfs.engine.past_tree import TOP_NAMES, PastTree
from bitdustfs.model import Ino, Inode


class PastOperations(ReadingOperations):
    """See `ReadingOperations`.

    Args:
        opened: what is answered when a file was opened, with this handle.
    """

    def __init__(
        self, tree: PastTree, entry: Callable[[Inode], Entry], *, reply: Reply, opened: Callable[[int], Any]
    ) -> None:
        super().__init__(tree, entry, reply, why="a snapshot is never changed")
        self._tree = tree
        self._opened = opened

    def top(self, name: bytes) -> Entry | None:
        """The directory that a name at the root leads to: of all snapshots, or forks; None: it leads to neither."""
        ino = TOP_NAMES.get(name)
        return self._told(self._tree.attributes(ino)) if ino is not None else None

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        return self._told_in(Ino(parent_inode), self._tree.lookup(Ino(parent_inode), name))

    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return self._tree.xattr(Ino(inode), name)

    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return [name for name, _ in self._tree.xattrs(Ino(inode))]

    async def open(self, inode: int, flags: int, ctx: Context) -> Any:
        self._admit(flags)
        self._tree.attributes(Ino(inode))
        return self._opened(inode)

    def _told(self, inode: Inode) -> Entry:
        entry = self._entry(inode)
        if inode.ino in TOPS:
            entry.attr_timeout = 0
        return entry

    def _told_in(self, directory: int, inode: Inode) -> Entry:
        entry = self._told(inode)
        if directory in TOPS:
            entry.entry_timeout = 0
        return entry

    def _above(self, directory: Ino) -> Ino:
        above = self._tree.parent_of(directory)
        return above if above >= FIRST_PAST else directory  # the root is not one of the past
