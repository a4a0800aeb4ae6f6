"""Attributes: what a person may set on an inode, apart from its names.

Owner, mode, times and size; extended attributes of the user namespace; and the rule that set-user-id and
set-group-id bits go when a file is given away, or truncated by somebody else than root. Before a write the kernel
asks for that itself: for a new mode, or where it leaves the rule to us (HANDLE_KILLPRIV) for a change of nothing.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

from bitdustfs.core.placement import parse_code
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.lives import Contents
from bitdustfs.errors import BadRequest, FileError
from bitdustfs.model import XATTR_NAME_BYTES, XATTR_TOTAL_BYTES, XATTR_VALUE_BYTES, Code, Ino, Inode
from bitdustfs.ports import Catalog, Wall

XATTR_LIST_BYTES = 64 * 1024  # XATTR_LIST_MAX: names that listxattr could not return would be invisible
STATE_XATTR = b"user.bitdustfs.state"  # virtual: how safe the file is; never listed, so that nobody copies it
CODE_XATTR = b"user.bitdustfs.code"  # virtual: K/N that is in force; what is in a directory takes over its code
_OURS = b"user.bitdustfs."
_USER = b"user."
_PERMISSIONS = 0o7777
_NOT_KEPT = FileError(errno=errno.ENODATA, what="only user attributes are kept")
_TIME_NS = (1 << 63) - 1  # the catalog's integers: from the year 1677 to 2262


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr asks for; None leaves it."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


_NOTHING = Changes()


class Attributes:
    """Setting attributes of inodes.

    Attributes:
        usual: the code of files for which none was chosen; None: no supplier is hired.
        on_code: called in the operation that sets the code of an inode, with what it was and its new code.
    """

    def __init__(self, catalog: Catalog, journal: Journal, files: Contents, wall: Wall) -> None:
        self._catalog = catalog
        self._journal = journal
        self._files = files
        self._wall = wall
        self.usual: Callable[[], Code | None] = lambda: None
        self.on_code: Callable[[Inode, Code | None], None] = lambda _inode, _new: None

    async def set(self, ino: Ino, changes: Changes, *, by_root: bool = False) -> None:
        """Change attributes. The size comes first, because only it may wait or fail for want of space.

        Args:
            by_root: a new size leaves the set-id bits.
        Raises:
            FileError: EISDIR or EINVAL, a size for what has none; EFBIG.
            NotFound, SpoolFull, DiskFull, DiskFault
        """
        if changes.size is not None:
            _check_size(self._row(ino), changes.size)
            await self._files.truncate(ino, changes.size)
        inode = self._row(ino)
        mode = _new_mode(inode, changes, by_root=by_root)
        atime_ns, mtime_ns = _kept_time(changes.atime_ns), _kept_time(changes.mtime_ns)
        now = self._wall.now_ns()
        with self._journal.operation():
            self._catalog.put_inode(
                inode.changed(
                    mode=mode,
                    uid=changes.uid,
                    gid=changes.gid,
                    atime_ns=atime_ns,
                    mtime_ns=None if inode.is_file else mtime_ns,
                    ctime_ns=now,
                )
            )
            if mtime_ns is not None and inode.is_file:
                self._files.touch(ino, mtime_ns=mtime_ns, ctime_ns=now)

    # -- extended attributes -------------------------------------------------------------------------------

    def xattr(self, ino: Ino, name: bytes) -> bytes:
        """The value of an extended attribute.

        Raises:
            FileError: ENODATA, there is none; ENOTSUP, a namespace that we do not have.
        """
        if not name.startswith(_USER):
            if name.startswith(b"security."):  # the kernel asks for one before the first write to each file
                raise _NOT_KEPT.with_traceback(None)
            raise FileError(errno=errno.ENOTSUP, what="only user attributes are kept")
        value = self._virtual(ino, name) if name.startswith(_OURS) else self._catalog.xattr(ino, name)
        if value is None:
            raise FileError(errno=errno.ENODATA, what="no such attribute")
        return value

    def set_xattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Set an extended attribute.

        Raises:
            FileError: ERANGE, name or value are too long; ENOSPC, all of them together are; ENOTSUP; EPERM, ours;
                EINVAL, no code that the hired suppliers are enough for.
        """
        if name == CODE_XATTR:
            self._set_code(ino, self._code(value))
            return
        _check_settable(name)
        if len(name) > XATTR_NAME_BYTES or len(value) > XATTR_VALUE_BYTES:
            raise FileError(errno=errno.ERANGE, what="an attribute's name or value is too long")
        others = [(len(n), len(v)) for n, v in self._catalog.xattrs(ino) if n != name]
        names = sum(n + 1 for n, _ in others) + len(name) + 1
        if names > XATTR_LIST_BYTES or names + sum(v for _, v in others) + len(value) > XATTR_TOTAL_BYTES:
            raise FileError(errno=errno.ENOSPC, what="too many attributes on one file")
        with self._journal.operation():
            self._catalog.put_xattr(ino, name, value)
            self._catalog.put_inode(replace(self._row(ino), ctime_ns=self._wall.now_ns()))

    def drop_xattr(self, ino: Ino, name: bytes) -> None:
        """Remove an extended attribute. Raises FileError: ENODATA, ENOTSUP, EPERM."""
        if name == CODE_XATTR:
            if self._row(ino).code is None:
                raise FileError(errno=errno.ENODATA, what="no code of its own is set here")
            self._set_code(ino, None)
            return
        _check_settable(name)
        with self._journal.operation():
            if not self._catalog.drop_xattr(ino, name):
                raise FileError(errno=errno.ENODATA, what="no such attribute")
            self._catalog.put_inode(replace(self._row(ino), ctime_ns=self._wall.now_ns()))

    def xattr_names(self, ino: Ino) -> list[bytes]:
        """The names of the stored extended attributes."""
        return [name for name, _ in self._catalog.xattrs(ino)]

    # -- private -------------------------------------------------------------------------------------------

    def _row(self, ino: Ino) -> Inode:
        inode = self._catalog.inode(ino)
        if inode is None:
            raise FileError(errno=errno.ENOENT, what=f"inode {ino} does not exist")
        return inode

    def _virtual(self, ino: Ino, name: bytes) -> bytes | None:
        inode = self._row(ino)
        if name == CODE_XATTR:
            code = inode.code or self.usual() if inode.is_dir or inode.is_file else None
            return str(code).encode() if code is not None else None
        if name != STATE_XATTR or not inode.is_file:
            return None
        return self._files.state(ino).value.encode()

    def _code(self, value: bytes) -> Code:
        """Read a code that somebody wants to set."""
        try:
            code = parse_code(value.decode("ascii", "replace"))
        except BadRequest as bad:
            raise FileError(errno=errno.EINVAL, what=str(bad)) from bad
        hired = sum(row.is_hired for row in self._catalog.suppliers())
        if code.n > hired:
            raise FileError(errno=errno.EINVAL, what=f"a code of {code} needs {code.n} suppliers; {hired} are hired")
        return code

    def _set_code(self, ino: Ino, code: Code | None) -> None:
        """Of blocks that are made from now on; what is placed already follows (engine/follower), unless k differs."""
        inode = self._row(ino)
        if not (inode.is_dir or inode.is_file):
            raise FileError(errno=errno.EPERM, what="only a directory or a regular file has a code")
        with self._journal.operation():
            self._catalog.put_inode(replace(inode, code=code, ctime_ns=self._wall.now_ns()))
            self.on_code(inode, code)


def _new_mode(inode: Inode, changes: Changes, *, by_root: bool) -> int:
    if changes.mode is not None:
        return stat.S_IFMT(inode.mode) | changes.mode & _PERMISSIONS
    given_away = changes.uid is not None or changes.gid is not None
    truncated = changes.size is not None and not by_root
    if not inode.is_dir and (given_away or truncated or changes == _NOTHING):
        return _without_set_id(inode.mode)
    return inode.mode


def _kept_time(time_ns: int | None) -> int | None:
    """The nearest time that can be kept, as utimensat(2) wants it of a file system."""
    return None if time_ns is None else max(-_TIME_NS, min(_TIME_NS, time_ns))


def _without_set_id(mode: int) -> int:
    """Take set-user-id; and set-group-id where the group may execute: else it would mean mandatory locking."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def _check_size(inode: Inode, size: int) -> None:
    if inode.is_dir:
        raise FileError(errno=errno.EISDIR, what="a directory has no size to set")
    if not inode.is_file or size < 0:
        raise FileError(errno=errno.EINVAL, what="no size can be set here")


def _check_settable(name: bytes) -> None:
    if name == _USER:
        raise FileError(errno=errno.EINVAL, what="an attribute needs a name after its namespace")
    if not name.startswith(_USER):
        raise FileError(errno=errno.ENOTSUP, what="only user attributes are kept")
    if name.startswith(_OURS):
        raise FileError(errno=errno.EPERM, what="this attribute is made by bitdustfs")
