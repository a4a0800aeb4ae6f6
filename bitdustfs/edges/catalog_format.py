"""The catalog's file format: which files are catalogs, which of them we read, and how a new one is made.

The format is `schema.sql`; the file's header carries `APPLICATION_ID` and `FORMAT_VERSION`. They are written in
rollback-journal mode, so that the main file alone tells them, whatever its write-ahead log holds.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from urllib.parse import quote

import apsw

from bitdustfs.errors import AlreadyThere, BadFormat, CatalogDamaged, NotFound

APPLICATION_ID = 0x42446673  # "BDfs" in the file's header
FORMAT_VERSION = 8
BUSY_MS = 5000  # another process may hold a lock only while it opens or closes the catalog
_STATEMENTS = 256  # more than we have: each is compiled once


def connect(path: str, vfs: str | None, *, read_only: bool = False) -> apsw.Connection:
    """Open a connection. Raises apsw.Error."""
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(path, flags=flags, vfs=vfs, statementcachesize=_STATEMENTS)
    connection.set_busy_timeout(BUSY_MS)
    # Without it a statement with a range or a partial index is compiled anew whenever other values are bound to it.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def refuse_foreign(path: Path, *, create: bool) -> None:
    """Look at the file's header alone, so that one that is not ours keeps every byte and gets no neighbours.

    Raises:
        NotFound, AlreadyThere: by `create`. BadFormat: not a catalog, damaged, or of an unknown version.
    """
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        if create:
            return
        raise NotFound(what=f"there is no catalog at {path}") from None
    if length == 0:
        if create:
            return  # a crash while it was made
        raise _unfinished(str(path))
    if create:
        raise AlreadyThere(what=f"there is a catalog at {path} already")
    uri = f"file:{quote(str(path))}?immutable=1"
    try:
        header = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        header.pragma("writable_schema", 1)  # so that a file shorter than it says is read: the rest may be in the log
        application, version = header.pragma("application_id"), header.pragma("user_version")
        header.close()
    except apsw.Error as e:
        raise CatalogDamaged(path=path, why=f"{e}; or it is no catalog at all") from e
    if (application, version) != (APPLICATION_ID, FORMAT_VERSION):
        raise _wrong_format(str(path), application, version)


def check_or_make(connection: apsw.Connection, path: str, *, create: bool) -> None:
    """See that a catalog of our version is in the file, or make it. Raises BadFormat, apsw.Error."""
    if connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        application, version = connection.pragma("application_id"), connection.pragma("user_version")
        if (application, version) != (APPLICATION_ID, FORMAT_VERSION):
            raise _wrong_format(path, application, version)
        return
    if not create:
        raise _unfinished(path)
    with connection:
        # in rollback-journal mode, where it is one atomic step: a crash leaves an empty file or a whole catalog
        connection.execute(resources.files("bitdustfs.edges").joinpath("schema.sql").read_text())


def _unfinished(path: str) -> BadFormat:
    return BadFormat(what=f"the catalog {path} is empty: making it was interrupted; remove it and make it again")


def _wrong_format(path: str, application: int, version: int) -> BadFormat:
    if application != APPLICATION_ID:
        return BadFormat(what=f"{path} is a database of another program, not a bitdustfs catalog")
    return BadFormat(
        what=f"the catalog {path} has format version {version}, and this bitdustfs reads version {FORMAT_VERSION}: "
        "use the release that wrote it, or a newer one; nothing was changed"
    )
