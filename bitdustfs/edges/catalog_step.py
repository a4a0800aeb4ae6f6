"""One step of a reader's catalog: from the state of one head to that of another, whole or not at all.

    beside: what differs from a whole newer catalog, or nothing
    begin, apply (a worker, by a connection of its own) -> commit (the loop) -> `SqliteCatalog.stepped`

Until the commit everybody reads the state before; it is one short act of the loop, which forgets in the same moment
what it remembers of that state. So nobody ever sees a mixture of two. Meanwhile nothing else may be written: whoever
steps keeps the journal from committing.

A change set is made to exactly the rows that it was made from: where one is not what it should be, the step fails and
nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import connect
from bitdustfs.errors import BadFormat

# of the rows about the catalog's own way to the suppliers, which a whole newer catalog brings along
_OWN_WAY: Final = ("l_block", "l_fragment", "l_image", "l_delta", "l_link")
_NAMED: Final = (("l_value", "key"), ("l_counter", "name"))
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?"
_CACHE_KIB = 4 * 1024  # what a large step changes goes to the log before its commit, which is short then
Statements = Sequence[tuple[str, Sequence[Any]]]


class SqliteStep:
    """`ports.Step` of one catalog file.

    Args:
        path: of the catalog, which somebody else has open.
        done: called right after the commit.
    """

    def __init__(self, path: str, vfs: str | None, done: Callable[[], None]) -> None:
        self._path = path
        self._vfs = vfs
        self._done = done
        self._connection: apsw.Connection | None = None
        self.is_open = True

    def apply(self, changes: bytes, statements: Statements, beside: Path | None = None) -> None:
        """Make the changes of a change set, and of the local rows, in a transaction that stays open. In a worker.

        Args:
            beside: a whole newer catalog; its local rows about its own way to the suppliers are taken over first.
        Raises:
            BadFormat: the change set does not fit what is here. DiskFull, DiskFault, CatalogDamaged. `close` undoes.
        """
        try:
            self._connection = connection = connect(self._path, self._vfs)
            connection.pragma("synchronous", 1)
            connection.pragma("cache_size", -_CACHE_KIB)
            connection.pragma("trusted_schema", 0)
            if beside is not None:
                connection.execute("ATTACH ? AS beside", (str(beside),))
            connection.execute("BEGIN IMMEDIATE")
            if changes:
                _check_tables(connection, changes)
                apsw.Changeset.apply(changes, connection, conflict=_refuse)
            if beside is not None:
                _take_own_way(connection)
            for sql, bindings in statements:
                connection.execute(sql, bindings)
        except (apsw.AbortError, apsw.ConstraintError, apsw.SchemaChangeError) as e:
            raise BadFormat(what=f"a change set of the catalog does not fit what is here: {e}") from e
        except apsw.Error as e:
            raise self._translated(e) from e

    def commit(self) -> None:
        """Let everybody see the new state from now on. Raises DiskFull, DiskFault: nothing was changed."""
        assert self._connection is not None, "apply comes first"
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as e:
            raise self._translated(e) from e
        self._done()

    def close(self) -> None:
        """Undo what was not committed, and let go of the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.is_open = False

    def _translated(self, error: apsw.Error) -> Exception:
        system_errno = self._connection.system_errno if self._connection is not None else 0
        return from_sqlite(error, self._path, system_errno=system_errno)


def _refuse(_reason: int, _change: apsw.TableChange) -> int:
    return apsw.SQLITE_CHANGESET_ABORT


def _check_tables(connection: apsw.Connection, changes: bytes) -> None:
    """SQLite passes over tables that it does not know: refuse them, and everything that is not replicated."""
    columns = {
        str(table): len(connection.execute(f"PRAGMA table_info({table})").fetchall())
        for (table,) in connection.execute(_TABLES, ("r_*",)).fetchall()
    }
    for change in apsw.Changeset.iter(changes):
        if columns.get(change.name) != change.column_count:
            what = f"a change set of the catalog speaks of a table {change.name} with {change.column_count} columns"
            raise BadFormat(what=what)


def _take_own_way(connection: apsw.Connection) -> None:
    for table in _OWN_WAY:
        connection.execute(f"DELETE FROM {table}")
        connection.execute(f"INSERT INTO {table} SELECT * FROM beside.{table}")
    for table, key in _NAMED:
        connection.execute(
            f"INSERT INTO {table} SELECT * FROM beside.{table} WHERE true "
            f"ON CONFLICT ({key}) DO UPDATE SET value = excluded.value"
        )
