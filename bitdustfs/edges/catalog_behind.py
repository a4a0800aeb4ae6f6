"""Rows that are put late: kept in memory until the transaction ends, or until somebody reads their table.

A directory changes with each name that comes or goes, and a file that is copied changes five times in a row. Each of
these puts a whole row; only the last one of a transaction is ever read from the file. So rows of a table that is read
by key, through a cache of objects, are kept here, and each is put once.

Savepoints hold for them as well: what was kept when one began is kept again when it is undone, also what was put
meanwhile, for that is undone in the file with everything else inside.

So do rows that are deleted late (`GoneBehind`): a removed file may have some in seven tables, and of files that are
removed together the numbers mostly follow one another.
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


class GoneBehind:
    """Numbers whose rows are to be deleted, in runs: by the caller, before he puts others of such a number."""

    def __init__(self) -> None:
        self._numbers: list[int] = []  # in order; those of which the rows were deleted come first
        self._done = 0  # how many of them that are
        self._waiting: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, number: int) -> bool:
        return number in self._waiting

    def add(self, number: int) -> None:
        """Its rows are to be deleted."""
        self._numbers.append(number)
        self._waiting.add(number)

    def runs(self) -> list[tuple[int, int]]:
        """The numbers that wait, as (first, last) of numbers that follow one another."""
        runs: list[tuple[int, int]] = []
        for number in sorted(self._waiting):
            if runs and runs[-1][1] == number - 1:
                runs[-1] = runs[-1][0], number
            else:
                runs.append((number, number))
        return runs

    def done(self, *, is_marked: bool) -> None:
        """The rows of all that wait were deleted.

        Args:
            is_marked: a savepoint is open.
        """
        self._waiting.clear()
        self._done = len(self._numbers)
        if not is_marked:
            self.forget_marks()

    def mark(self) -> tuple[int, int]:
        """What would stay if a savepoint that begins now were undone."""
        return len(self._numbers), self._done

    def undo(self, mark: tuple[int, int]) -> bool:
        """Have those wait again that waited then. Says whether anything changed."""
        if mark == (len(self._numbers), self._done):
            return False
        count, self._done = mark
        del self._numbers[count:]
        self._waiting = set(self._numbers[self._done :])
        return True

    def forget_marks(self) -> None:
        """No savepoint is open any more."""
        del self._numbers[: self._done]
        self._done = 0
