"""Rows that are put late: kept in memory until the transaction ends, or until somebody reads their table.

A directory changes with each name that comes or goes, and a file that is copied changes five times in a row. Each of
these puts a whole row; only the last one of a transaction is ever read from the file. So rows of a table that is read
by key, through a cache of objects, are kept here, and each is put once.

Savepoints hold for them as well: what was kept when one began is kept again when it is undone, also what was put
meanwhile, for that is undone in the file with everything else inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RowsBehind(Generic[K, V]):
    """The last row for each key, of those that are to be put."""

    def __init__(self) -> None:
        self._rows: dict[K, V] = {}
        self._before: list[tuple[K, V | None]] = []  # what was kept before each change since a mark

    def __bool__(self) -> bool:
        return bool(self._rows)

    def get(self, key: K) -> V | None:
        """The row that is kept, if one is."""
        return self._rows.get(key)

    def keep(self, key: K, row: V, *, is_marked: bool) -> None:
        """Keep a row instead of the one before.

        Args:
            is_marked: a savepoint is open, here and below.
        """
        if is_marked:
            self._before.append((key, self._rows.get(key)))
        self._rows[key] = row

    def drop(self, key: K, *, is_marked: bool) -> None:
        """Keep none for this key: it was put, or is not to be put any more."""
        row = self._rows.pop(key, None)
        if row is not None and is_marked:
            self._before.append((key, row))

    def each(self) -> Iterator[tuple[K, V]]:
        """All rows, in the order in which their keys came. Each may be dropped meanwhile."""
        yield from list(self._rows.items())

    def mark(self) -> int:
        """How much would stay if a savepoint that begins now were undone."""
        return len(self._before)

    def undo(self, mark: int) -> bool:
        """Keep again what was kept then. Says whether anything changed."""
        changed = len(self._before) > mark
        while len(self._before) > mark:
            key, row = self._before.pop()
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        return changed

    def forget_marks(self) -> None:
        """No savepoint is open any more."""
        self._before.clear()
