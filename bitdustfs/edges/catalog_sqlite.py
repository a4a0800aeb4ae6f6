"""The catalog in SQLite: `ports.Catalog` put together from its parts.

`catalog_file` is the file and `catalog_store` its transactions; `catalog_tree`, `catalog_maps`, `catalog_blocks`,
`catalog_unneeded`, `catalog_snapshots`, `catalog_forks`, `catalog_codes`, `catalog_local`, `catalog_observed` and
`catalog_replica` are the tables, explained in `schema.sql`.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from bitdustfs.edges.catalog_blocks import BlockTables
from bitdustfs.edges.catalog_codes import CodeTables
from bitdustfs.edges.catalog_file import MEMORY
from bitdustfs.edges.catalog_forks import ForkTables
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_image import SqliteImage
from bitdustfs.edges.catalog_local import LocalTables
from bitdustfs.edges.catalog_maps import MAP, MapTables
from bitdustfs.edges.catalog_observed import ObservedTables
from bitdustfs.edges.catalog_replica import ReplicaTables
from bitdustfs.edges.catalog_snapshots import SnapshotTables
from bitdustfs.edges.catalog_tree import INODES, XATTRS, TreeTables
from bitdustfs.edges.catalog_unneeded import UnneededTables
from bitdustfs.model import Ino

_VALUE = "SELECT value FROM r_value WHERE key = ?"
_PUT_VALUE = "INSERT INTO r_value (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class SqliteCatalog(
    ForkTables,
    TreeTables,
    MapTables,
    BlockTables,
    UnneededTables,
    SnapshotTables,
    CodeTables,
    LocalTables,
    ObservedTables,
    ReplicaTables,
):
    """The customer's database. See `ports.Catalog` for the promises and `Store` for the arguments."""

    def drop_inode(self, ino: Ino) -> None:
        """Forget an inode with its map, xattrs and all local rows."""
        self._refuse_if_failed()
        with self.savepoint():
            self._drop_inode_row(ino)
            self._gone.add(ino)

    def image(self, path: Path) -> SqliteImage:
        """Choose this instant for a page image of everything committed, to be copied to `path` in a worker.

        Change sets above `last_change` continue it; one that was merged across this instant does not.

        Raises:
            RuntimeError: a transaction is open. DiskFull, DiskFault, ReadOnly, CatalogDamaged.
        """
        if self._open or self._behind or self._gone:
            raise RuntimeError("an image is taken between transactions, not inside one")
        if self._damage is not None:
            raise self._damage.with_traceback(None)
        try:
            source = connect(MEMORY if self._in_memory else self.path, self._vfs, read_only=not self._in_memory)
            if self._in_memory:
                with source.backup("main", self._connection, "main") as copying:
                    copying.step()
            else:
                source.execute("BEGIN; SELECT 1 FROM r_counter").fetchall()  # from here on it sees this state
        except apsw.Error as e:
            raise self._translated(e) from e
        return SqliteImage(source, self.path, path)

    def value(self, key: str) -> bytes | None:
        """A named value of the volume: its id, scope, suite, code."""
        rows = self._rows(_VALUE, (key,))
        return rows[0][0] if rows else None

    def put_value(self, key: str, value: bytes) -> None:
        """Insert or replace."""
        self._change(_PUT_VALUE, (key, value))

    # -- private -----------------------------------------------------------------------------------------
    def _put_behind(self) -> None:
        super()._put_behind()
        self._put_gone()

    def _put_gone(self) -> None:
        pending = self._pending  # they were counted when they were dropped
        for first, last in self._gone.runs():  # what fails halfway is done again: it deletes what is left
            self._loosen_maps(first, last)
            for table in (MAP, XATTRS, INODES):
                self._drop_live_span(table, first, last)
            self._drop_local_rows(first, last)
        self._gone.done(is_marked=bool(self._savepoints))
        self._pending = pending
