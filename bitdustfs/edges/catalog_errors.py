"""SQLite's errors in our words."""

from __future__ import annotations

import errno

import apsw

from bitdustfs.edges.durable import NO_DESCRIPTORS
from bitdustfs.errors import (
    BadFormat,
    BitdustError,
    CatalogDamaged,
    DiskFault,
    DiskFull,
    Forbidden,
    InUse,
    Unavailable,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def from_sqlite(error: apsw.Error, path: str, *, system_errno: int) -> BitdustError:
    """The error of ours for one of SQLite.

    Args:
        system_errno: of the last call to the system that failed for this connection; 0 if it is not known. SQLite
            says only "I/O error" of a full disk when it is the WAL's index that cannot grow.
    """
    if isinstance(error, apsw.IOError | apsw.CantOpenError):
        if system_errno in _FULL:
            return DiskFull(path=path)
        if system_errno in NO_DESCRIPTORS:
            return Unavailable(what=f"the catalog {path}: this process has too many files open")
    match error:
        case apsw.FullError():
            return DiskFull(path=path)
        case apsw.IOError() | apsw.ConnectionClosedError() | apsw.CursorClosedError():
            return DiskFault(path=path, why=str(error))
        case apsw.CorruptError() | apsw.NotADBError():
            return CatalogDamaged(path=path, why=str(error))
        case apsw.BusyError() | apsw.LockedError():
            return InUse(what=f"the catalog {path} is in use by another process")
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return Forbidden(what=f"the catalog {path} cannot be opened for writing: {error}")
        case apsw.TooBigError():
            return BadFormat(what=f"the catalog {path} has a value that is larger than any that is written")
    return BitdustError(what=f"the catalog {path}: {error!r}")
