"""The catalog in SQLite: `ports.Catalog` put together from its parts.

`catalog_file` is the file and `catalog_store` its transactions; `catalog_tree`, `catalog_maps`, `catalog_blocks`,
`catalog_local` and `catalog_replica` are the tables, explained in `schema.sql`.
"""

from __future__ import annotations

from bitdustfs.edges.catalog_blocks import BlockTables
from bitdustfs.edges.catalog_local import LocalTables
from bitdustfs.edges.catalog_maps import MAP, MapTables
from bitdustfs.edges.catalog_replica import ReplicaTables
from bitdustfs.edges.catalog_tree import XATTRS, TreeTables
from bitdustfs.model import Ino

_VALUE = "SELECT value FROM r_value WHERE key = ?"
_PUT_VALUE = "INSERT INTO r_value (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class SqliteCatalog(TreeTables, MapTables, BlockTables, LocalTables, ReplicaTables):
    """The customer's database. See `ports.Catalog` for the promises and `Store` for the arguments."""

    def drop_inode(self, ino: Ino) -> None:
        """Forget an inode with its map, xattrs and all local rows."""
        with self.savepoint():
            self._drop_inode_row(ino)
            self.drop_live(MAP, (ino,))
            self.drop_live(XATTRS, (ino,))
            self._drop_local_rows(ino)

    def value(self, key: str) -> bytes | None:
        """A named value of the volume: its id, scope, suite, code."""
        rows = self._rows(_VALUE, (key,))
        return rows[0][0] if rows else None

    def put_value(self, key: str, value: bytes) -> None:
        """Insert or replace."""
        self._change(_PUT_VALUE, (key, value))
