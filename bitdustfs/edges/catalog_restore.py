"""A catalog put together from what suppliers have: the pieces of an image, and change sets on top of it.

The file is worth nothing before `finish`: it is written without a journal that would outlive a crash, and whoever
makes it does so beside the place of the catalog.

**Order.** Change sets are applied oldest first, and none was merged across the instant of the image. Then each change
meets the rows that it was made from. Where it does not, because the image holds it already, the change wins, so that
the last change of every row is what is there in the end.

**What was not published.** A file that was never published has no content at the suppliers. A name that shows one
shows what it superseded instead, or goes. So do map rows of a version that was to come (`core/laid`). These are
ordinary changes in the outbox of the new catalog: who has the image and all change sets, and these, has this catalog.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw

from bitdustfs.core.units import format_size
from bitdustfs.edges.catalog_check import check_shape
from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import check_or_make, connect
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.durable import sync_directory, translated, write_all_at
from bitdustfs.errors import BadFormat, CatalogDamaged, DiskFault, DiskTooSmall
from bitdustfs.model import IMAGE_CHUNK_BYTES, ROOT_INO, FragmentState, Name, RestoreReport

_log = logging.getLogger(__name__)
_COMMIT_AFTER = 500  # names that are changed in one transaction
_INDEXES = 4096  # of a map, of which rows are taken away in one transaction: each is in memory until it ends
_LEFT_SHARE = 8  # (tune) of the free disk, this part is left for what goes on beside
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?"
_PUT_USAGE = f"""
    INSERT INTO l_usage (supplier, bytes, fragments)
    SELECT s.supplier, coalesce(u.bytes, 0), coalesce(u.fragments, 0) FROM r_supplier AS s LEFT JOIN (
        SELECT f.supplier, sum((b.length + b.k - 1) / b.k) AS bytes, count(*) AS fragments
        FROM r_fragment AS f JOIN r_block AS b ON b.block = f.block
        WHERE f.state = {FragmentState.HELD} GROUP BY f.supplier
    ) AS u ON u.supplier = s.supplier
"""
_PUT_LAST_CHANGE = "INSERT INTO l_counter (name, value) VALUES ('change', ?)"


class Restore:
    """A catalog in the making. Everything is blocking, for a worker.

    Args:
        path: the new file. What is there is replaced.
    Raises:
        DiskFull, DiskFault: also from every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self._columns: dict[str, int] = {}  # of each replicated table
        self._finished = False
        try:
            self._remove()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise translated(e, path) from e

    def expect(self, chunks: int) -> None:
        """Refuse an image of so many chunks if the disk has no room for it. Raises DiskTooSmall.

        Chunks may shrink to nothing and many may be one, so what came from suppliers does not bound what it takes.
        """
        disk = os.statvfs(self._path.parent)
        needed, free = chunks * IMAGE_CHUNK_BYTES, disk.f_bavail * disk.f_frsize
        if needed > free - free // _LEFT_SHARE:
            left = format_size(free)
            raise DiskTooSmall(what="the catalog", needed=format_size(needed), path=self._path.parent, left=left)

    def write(self, index: int, content: bytes) -> None:
        """Put one chunk of the image in its place. All come before the first change set, in any order.

        Several workers may do so at once.
        """
        if self._descriptor < 0:
            raise RuntimeError("an image comes before what was changed since")
        if len(content) != IMAGE_CHUNK_BYTES:
            raise BadFormat(what=f"a piece of a catalog snapshot has {len(content)} bytes")
        try:
            write_all_at(self._descriptor, content, index * IMAGE_CHUNK_BYTES)
        except OSError as e:
            raise translated(e, self._path) from e

    def apply(self, changes: bytes) -> None:
        """Make the changes of one change set. Without any chunk before, they are made to an empty catalog.

        Raises:
            BadFormat: it is none, or speaks of other tables than the replicated ones; nothing was changed.
            CatalogDamaged: the image is not a catalog.
        """
        connection = self._opened()
        conflicts = 0

        def resolve(reason: int, _change: apsw.TableChange) -> int:
            nonlocal conflicts
            conflicts += 1
            if reason in (apsw.SQLITE_CHANGESET_DATA, apsw.SQLITE_CHANGESET_CONFLICT):
                return apsw.SQLITE_CHANGESET_REPLACE
            if reason == apsw.SQLITE_CHANGESET_NOTFOUND:
                return apsw.SQLITE_CHANGESET_OMIT
            return apsw.SQLITE_CHANGESET_ABORT

        try:
            self._check_tables(changes)
            apsw.Changeset.apply(changes, connection, conflict=resolve)
        except (apsw.CorruptError, apsw.AbortError, apsw.ConstraintError, apsw.SchemaChangeError) as e:
            raise BadFormat(what=f"a change set of the catalog cannot be applied: {e}") from e
        except apsw.Error as e:
            raise self._translated(e) from e
        if conflicts:
            _log.info("%d changes were in the restored catalog already", conflicts)

    def finish(self, *, last_change: int = 0, verbatim: bool = False) -> RestoreReport:
        """Make it a catalog to go on with, and durable. It can be opened then.

        Args:
            last_change: the number of the last change that it holds; its own go on from there.
            verbatim: change no replicated row, so that further change sets fit: for who only reads.
        Raises:
            CatalogDamaged: the result is not sound.
        """
        connection = self._opened()
        try:
            with connection:
                for (table,) in connection.execute(_TABLES, ("l_*",)).fetchall():
                    connection.execute(f"DELETE FROM {table}")
                connection.execute(_PUT_USAGE)
                connection.execute(_PUT_LAST_CHANGE, (last_change,))
        except apsw.Error as e:
            raise self._translated(e) from e
        self._close_connection()
        with closing(SqliteCatalog(self._path)) as catalog:
            report = RestoreReport((), ()) if verbatim else only_published(catalog)
        if self._path.with_name(self._path.name + "-wal").exists():
            raise DiskFault(path=self._path, why="its write-ahead log could not be copied into it")
        self._sync()
        self._finished = True
        return report

    def close(self) -> None:
        """Let go of the file; remove it if it was not finished."""
        self._close_connection()
        self._close_descriptor()
        if not self._finished:
            self._remove()

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            try:
                self._check_size()
                self._close_descriptor()  # closing one later would drop SQLite's locks
                self._connection = connect(str(self._path), None)
                self._connection.pragma("journal_mode", "memory")
                self._connection.pragma("synchronous", 0)
                self._connection.pragma("cell_size_check", 1)
                self._connection.pragma("trusted_schema", 0)
                check_or_make(self._connection, str(self._path), create=True)
                check_shape(self._connection, str(self._path))  # suppliers sent it, and it may be of a stolen machine
                for (table,) in self._connection.execute(_TABLES, ("r_*",)).fetchall():
                    columns = self._connection.execute(f"PRAGMA table_info({table})").fetchall()
                    self._columns[str(table)] = len(columns)
            except apsw.Error as e:
                raise self._translated(e) from e
            except OSError as e:
                raise translated(e, self._path) from e
        return self._connection

    def _check_size(self) -> None:
        header = os.pread(self._descriptor, 100, 0)
        length = int.from_bytes(header[16:18]) * int.from_bytes(header[28:32])  # bytes of a page, pages
        have = os.fstat(self._descriptor).st_size
        if not length <= have < length + IMAGE_CHUNK_BYTES:  # the last chunk is filled up
            raise CatalogDamaged(path=self._path, why=f"its image has {have} bytes and not {length}")

    def _sync(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            os.fsync(self._descriptor)
            self._close_descriptor()
            sync_directory(self._path.parent)
        except OSError as e:
            raise translated(e, self._path) from e

    def _check_tables(self, changes: bytes) -> None:
        for change in apsw.Changeset.iter(changes):
            if self._columns.get(change.name) != change.column_count:
                what = (
                    f"a change set of the catalog speaks of a table {change.name} with {change.column_count} columns"
                )
                raise BadFormat(what=what)

    def _translated(self, error: apsw.Error) -> Exception:
        system_errno = self._connection.system_errno if self._connection is not None else 0
        return from_sqlite(error, str(self._path), system_errno=system_errno)

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _close_descriptor(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _remove(self) -> None:
        for tail in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + tail).unlink(missing_ok=True)


def only_published(catalog: SqliteCatalog) -> RestoreReport:
    """Take away what was not published: nobody here has its content. Every name shows a published file then."""
    report = _without_unborn_files(catalog)
    for ino, count, end in catalog.overhangs():
        for first in range(count, end, _INDEXES):
            catalog.replace_map(ino, (), first=first, last=min(first + _INDEXES, end) - 1)
            catalog.commit()
    return report


def _without_unborn_files(catalog: SqliteCatalog) -> RestoreReport:
    removed: list[bytes] = []
    reverted: list[bytes] = []
    for ino in catalog.unborn_files():
        for name in catalog.names_of(ino):
            path = _path(catalog, name)
            if catalog.inode(name.superseded) is not None:
                catalog.put_name(name.parent, name.name, name.superseded)
                reverted.append(path)
                continue
            catalog.drop_name(name.parent, name.name)
            removed.append(path)
            parent = catalog.inode(name.parent)
            if parent is not None:
                catalog.put_inode(replace(parent, size=parent.size - 1))
        catalog.drop_inode(ino)
        if catalog.pending > _COMMIT_AFTER:
            catalog.commit()
    catalog.commit()
    return RestoreReport(removed=tuple(sorted(removed)), reverted=tuple(sorted(reverted)))


def _path(catalog: SqliteCatalog, name: Name) -> bytes:
    """Where a name is in the volume, e.g. b"directory/file"."""
    parts = [name.name]
    seen = {ROOT_INO}
    while name.parent not in seen:
        seen.add(name.parent)
        above = catalog.names_of(name.parent)
        if not above:
            break
        name = above[0]  # a directory has one name
        parts.append(name.name)
    return b"/".join(reversed(parts))
