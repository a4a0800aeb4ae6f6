"""The kernel's requests where nothing can be changed: what a tree of the past and that of a view have in common.

`edges.fuse` hands over a request by its name. What is not answered here or in `fuse_past`, `fuse_view` is a change.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from bitdustfs.errors import FileError
from bitdustfs.model import Cookie, Ino, Inode, Name

Entry = Any  # pyfuse3's attributes of an entry; only `edges.fuse` knows pyfuse3
Context = Any
Reply = Callable[[Any, bytes, Entry, int], bool]  # adds an entry to a listing, and says whether it had room
_DOTS: Final = 2  # offsets of a listing before the first cookie
PAGE: Final = 24


def cookie_of(offset: int) -> Cookie:
    """The cookie of the last name before an offset of a listing; 0: there is none."""
    return Cookie(max(0, offset - _DOTS))


class ReadTree(Protocol):
    """What is needed of a tree."""

    def attributes(self, ino: Ino) -> Inode: ...

    def readlink(self, ino: Ino) -> bytes: ...

    def parent_of(self, ino: Ino) -> Ino: ...

    def listing(self, directory: Ino, after: Cookie, count: int) -> Sequence[tuple[Name, Inode]]: ...

    async def read(self, ino: Ino, offset: int, size: int) -> bytes: ...


class ReadingOperations:
    """Handlers, by the names that `pyfuse3.Operations` has for them. A handle is the number of its inode.

    Args:
        entry: how the kernel is told of an inode.
        why: nothing can be changed.
    """

    def __init__(self, shown: ReadTree, entry: Callable[[Inode], Entry], reply: Reply, *, why: str) -> None:
        self._shown = shown
        self._entry = entry
        self._reply = reply
        self._why = why

    def handler(self, name: str) -> Callable[..., Any]:
        """The handler of a request; for a change, one that refuses it."""
        return getattr(self, name, None) or self._refuse

    async def getattr(self, inode: int, ctx: Context) -> Entry:
        return self._told(self._shown.attributes(Ino(inode)))

    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return self._shown.readlink(Ino(inode))

    async def opendir(self, inode: int, ctx: Context) -> int:
        self._shown.attributes(Ino(inode))
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        directory = self._directory(fh)
        for offset, name, ino in ((1, b".", directory), (2, b"..", self._above(directory))):
            if offset > start_id and not self._reply(token, name, self._told(self._shown.attributes(ino)), offset):
                return
        after = cookie_of(start_id)
        while page := self._page(fh, after):
            for found, inode in page:
                if not self._reply(token, found.name, self._told_in(fh, inode), found.cookie + _DOTS):
                    return
                self._listed(inode)
                after = found.cookie

    async def releasedir(self, fh: int) -> None:
        return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._shown.read(Ino(fh), off, size)

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def release(self, fh: int) -> None:
        return

    # -- where the two differ ----------------------------------------------------------------------------------

    def _told(self, inode: Inode) -> Entry:
        return self._entry(inode)

    def _told_in(self, _fh: int, inode: Inode) -> Entry:
        """The same of what was found in an open directory."""
        return self._told(inode)

    def _directory(self, fh: int) -> Ino:
        """The directory that was opened."""
        return Ino(fh)

    def _page(self, fh: int, after: Cookie) -> Sequence[tuple[Name, Inode]]:
        """Names of an open directory after a cookie."""
        return self._shown.listing(Ino(fh), after, PAGE)

    def _above(self, directory: Ino) -> Ino:
        """What `..` shows there."""
        return self._shown.parent_of(directory)

    def _listed(self, inode: Inode) -> None:
        """The kernel got it in a listing, and knows its number now."""

    # -- for both ----------------------------------------------------------------------------------------------

    def _admit(self, flags: int) -> None:
        """Refuse to open a file for anything but reading."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise self._refusal()

    async def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise self._refusal()

    def _refusal(self) -> FileError:
        return FileError(errno=errno.EROFS, what=self._why)
