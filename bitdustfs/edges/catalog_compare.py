"""A catalog at one instant, compared with one that was put together from what suppliers have.

Everything is read in a transaction of its own, also while another process serves the catalog: it sees one state, and
that process goes on. The rows of each table come in the order of its key from both files, so nothing is held in
memory and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import apsw

from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import connect, refuse_foreign
from bitdustfs.edges.catalog_versioned import LIVE

_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'r_*' ORDER BY name"
_KEY = "SELECT name FROM pragma_table_info('{table}') WHERE pk ORDER BY pk"
_LAST_CHANGE = """
    SELECT max(coalesce((SELECT max(no) FROM l_outbox), 0),
               coalesce((SELECT value FROM l_counter WHERE name = 'change'), 0))
"""
_INODES = f"SELECT count(*) FROM r_inode WHERE died = {LIVE}"


class Instant:
    """The committed state of a catalog when this is made, until `close`. Blocking.

    Raises:
        NotFound, BadFormat, CatalogDamaged, DiskFault: also from every method.
    """

    def __init__(self, path: Path) -> None:
        refuse_foreign(path, create=False)
        self._path = str(path)
        self._connection: apsw.Connection | None = None
        try:
            self._connection = connect(self._path, None, read_only=True)
            self._connection.execute("BEGIN; SELECT 1 FROM r_counter").fetchall()  # from here on it sees this state
        except apsw.Error as error:
            self.close()
            raise from_sqlite(error, self._path, system_errno=0) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @property
    def last_change(self) -> int:
        """The number of the newest change that it holds."""
        return self._number(_LAST_CHANGE)

    @property
    def inodes(self) -> int:
        """How many files and directories there are, the root too."""
        return self._number(_INODES)

    def first_difference(self, other: Instant) -> str | None:
        """The first replicated table, by name, that has other rows there; None: all are equal, row by row."""
        tables = self._tables()
        if tables != other._tables():
            return "sqlite_schema"
        for table in tables:
            if any(one != two for one, two in zip_longest(self._rows(table), other._rows(table))):
                return table
        return None

    def _tables(self) -> list[str]:
        return [str(row[0]) for row in self._all(_TABLES)]

    def _rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        key = ", ".join(str(name) for (name,) in self._all(_KEY.format(table=table)))
        return self._all(f"SELECT * FROM {table} ORDER BY {key}")

    def _number(self, statement: str) -> int:
        return next(int(row[0]) for row in self._all(statement))

    def _all(self, statement: str) -> Iterator[tuple[Any, ...]]:
        assert self._connection is not None, "it is closed"
        try:
            yield from self._connection.execute(statement)
        except apsw.Error as error:
            raise from_sqlite(error, self._path, system_errno=self._connection.system_errno) from error
