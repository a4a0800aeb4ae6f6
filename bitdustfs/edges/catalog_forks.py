"""The catalog's forks: the tree of a head on another line, brought in as a generation that was never current.

A generation of its own is ended for it, which shows what was there then. Row by row it is made to show the other
tree: what the live tree and other snapshots need of a row stays theirs, and the generation gets rows that only it
has, born in it and closed in the next. Nothing shows it before all is in; until then its kind is COMING, and a start
lets what is half done be gone like any snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_maps import MAP
from bitdustfs.edges.catalog_store import Store
from bitdustfs.edges.catalog_tree import INODES, NAMES, XATTRS, TreeTables, inode_values
from bitdustfs.edges.catalog_versioned import LIVE, Versioned
from bitdustfs.model import Cookie, Ino, Inode, MapRow, SnapshotKind

_KIND = "UPDATE r_snapshot SET kind = ?2, name = ?3 WHERE generation = ?1"
_IS_KEPT = "SELECT 1 FROM r_snapshot WHERE NOT gone AND generation >= ? AND generation < ? LIMIT 1"


class _Statements:
    """How a row of a table is taken out of one generation, and put into it alone."""

    def __init__(self, table: Versioned) -> None:
        key, columns = ", ".join(table.key), ", ".join((*table.key, "born", "died", *table.columns))
        self.keys = len(table.key)
        where = " AND ".join(f"{each} = ?{number}" for number, each in enumerate(table.key, start=1))
        born, then = self.keys + 1, self.keys + 2
        self.seen = f"SELECT born, died FROM {table.table} WHERE {where} AND born <= ?{born} AND died > ?{born}"
        self.later = f"UPDATE {table.table} SET born = ?{then} WHERE {where} AND born = ?{born}"
        self.close = f"UPDATE {table.table} SET died = ?{then} WHERE {where} AND born = ?{born}"
        self.drop = f"DELETE FROM {table.table} WHERE {where} AND born = ?{born}"
        rest = ", ".join(("died", *table.columns))
        self.copy = (
            f"INSERT INTO {table.table} ({key}, born, {rest}) "
            f"SELECT {key}, ?{then}, {rest} FROM {table.table} WHERE {where} AND born = ?{born}"
        )
        places = ", ".join("?" * (self.keys + 2 + len(table.columns)))
        self.put = f"INSERT OR REPLACE INTO {table.table} ({columns}) VALUES ({places})"


_OF: Final = {table.table: _Statements(table) for table in (INODES, NAMES, XATTRS, MAP)}


class ForkTables(TreeTables, Store):
    """Trees of other lines."""

    def put_then(self, generation: int, inode: Inode) -> None:
        """Have a generation show this inode, by its number of now, and no extended attributes of it."""
        self._put_behind()
        with self.savepoint():
            self._put_alone(INODES, generation, (inode.ino,), inode_values(inode))
            for name, _value in self.xattrs(at(generation, inode.ino)):
                self._hide(XATTRS, generation, (inode.ino, name))
        self._inodes.pop(at(generation, inode.ino), None)

    def put_xattr_then(self, generation: int, ino: Ino, name: bytes, value: bytes) -> None:
        """Have a generation show an extended attribute of an inode."""
        self._put_alone(XATTRS, generation, (ino, name), (value,))

    def put_map_then(self, generation: int, ino: Ino, rows: Iterable[MapRow]) -> None:
        """Have a generation show so many chunks of a file; of this inode there is no other map."""
        with self.savepoint():
            for row in rows:
                self._put_alone(MAP, generation, (ino, row.index), (row.count, row.chunk))

    def put_name_then(self, generation: int, parent: Ino, name: bytes, ino: Ino) -> None:
        """Have a generation show a name, which it does not yet, in a directory by its number of now."""
        self._put_alone(NAMES, generation, (parent, self._take("cookie")), (name, ino, 0))

    def drop_name_then(self, generation: int, parent: Ino, cookie: Cookie) -> None:
        """Have a generation not show the name at this place of a directory."""
        self._hide(NAMES, generation, (parent, cookie))

    def change_snapshot(self, generation: int, name: str, kind: SnapshotKind) -> None:
        """Give a snapshot another kind and name."""
        self._change(_KIND, (generation, int(kind), name))
        self._snapshots = None

    # -- private -----------------------------------------------------------------------------------------
    def _put_alone(self, table: Versioned, generation: int, key: Sequence[Any], values: Sequence[Any]) -> None:
        with self.savepoint():
            self._hide(table, generation, key)
            self._change(_OF[table.table].put, (*key, generation, generation + 1, *values))

    def _hide(self, table: Versioned, generation: int, key: Sequence[Any]) -> None:
        """Take a row out of one generation, and leave it in all others that somebody may look at."""
        of = _OF[table.table]
        for born, died in self._rows(of.seen, (*key, generation)):
            is_needed_before = bool(self._rows(_IS_KEPT, (born, generation)))
            is_needed_after = died == LIVE or bool(self._rows(_IS_KEPT, (generation + 1, died)))
            with self.savepoint():
                if is_needed_before and is_needed_after:
                    self._change(of.copy, (*key, born, generation + 1))
                if is_needed_before:
                    self._change(of.close, (*key, born, generation))
                elif is_needed_after:
                    self._change(of.later, (*key, born, generation + 1))
                else:
                    self._change(of.drop, (*key, born))
