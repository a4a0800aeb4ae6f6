"""Saving what can be read of a catalog whose file is damaged, row by row, into a new one.

Each table is walked along its key, forwards and backwards. Where a page cannot be read, the walk begins again behind
it: most columns of keys are numbers, so the gap between what was read last and what was read from the other end is
halved again and again, the widest piece first, and what a lookup by key would find is found. Indexes are made anew.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import apsw

from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.durable import translated
from bitdustfs.errors import CatalogDamaged

PROBES: Final = 2_000  # (tune) of one table that may fail: a second or two
SPAN: Final = 1_000_000  # (tune) of numbers looked through where one end of the table cannot be read
_DAMAGE = (apsw.Error, UnicodeDecodeError)
Row = tuple[Any, ...]


@dataclass(slots=True)
class Salvaged:
    """What came over, by table."""

    rows: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)  # tables of which something could not be read


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: Sequence[str]
    key: Sequence[str]  # its columns in their order
    is_number: Sequence[bool]  # each of these


def salvage(source: Path, target: Path) -> Salvaged:
    """Copy every row that can be read into a new catalog. Blocking: for a worker, or a verb without a loop.

    Args:
        source: is not changed, but by SQLite's own looking at its log.
        target: must not exist.
    Raises:
        DiskFull, DiskFault: of the new one. CatalogDamaged: of the old one not even the beginning can be read.
    """
    done = Salvaged()
    try:
        with closing(connect(str(target), None)) as new, closing(connect(str(source), None, read_only=True)) as old:
            new.pragma("synchronous", 0)  # it is worth nothing before it is whole
            with new:
                new.execute(resources.files("bitdustfs.edges").joinpath("schema.sql").read_text())
            if not old.execute("SELECT name FROM sqlite_schema").fetchall():
                raise CatalogDamaged(path=source, why="it has no tables any more")
            for table in _tables(new):
                with new:
                    _copy(old, new, table, done)
        with open(target, "rb") as made:
            os.fsync(made.fileno())
    except apsw.Error as e:
        raise from_sqlite(e, str(source), system_errno=0) from e
    except OSError as e:
        raise translated(e, target) from e
    if not done.rows["r_inode"]:
        raise CatalogDamaged(path=source, why="nothing of its tree can be read")
    return done


def _tables(new: apsw.Connection) -> Iterator[_Table]:
    names = new.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'").fetchall()
    for (name,) in names:
        columns = new.execute(f"PRAGMA table_info({name})").fetchall()
        keys = sorted((int(c[5]), str(c[1]), c[2] == "INTEGER") for c in columns if c[5])
        yield _Table(
            str(name),
            [str(c[1]) for c in columns],
            [key for _, key, _ in keys],
            [is_number for *_, is_number in keys],
        )


def _copy(old: apsw.Connection, new: apsw.Connection, table: _Table, done: Salvaged) -> None:
    walk = _Walk(old, table)
    places = ", ".join("?" * len(table.columns))
    put = f"INSERT OR REPLACE INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})"
    for row in walk.rows(()):
        try:
            new.execute(put, row)
        except (apsw.ConstraintError, apsw.MismatchError):
            walk.is_damaged = True  # a value that the column cannot have
    count: Any = new.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0]
    done.rows[table.name] = count
    if walk.is_damaged:
        done.damaged.append(table.name)


class _Walk:
    """The readable rows of one table, some of them more than once."""

    def __init__(self, old: apsw.Connection, table: _Table) -> None:
        self._old = old
        self._table = table
        self._select = f"SELECT {', '.join(table.columns)} FROM {table.name}"
        self.is_damaged = False
        self._probes = PROBES

    def rows(self, prefix: Sequence[Any]) -> Iterator[Row]:
        """All that begin with these values of the key."""
        whole, last = yield from self._read(prefix)
        if whole or self._probes <= 0:
            return
        self.is_damaged = True
        self._probes -= 1
        _, end = yield from self._read(prefix, backwards=True)
        if prefix and last is None and end is None:
            return
        deeper = len(prefix) + 1 < len(self._table.key)
        if deeper:
            for value in {value for value in (last, end) if value is not None}:
                yield from self.rows((*prefix, value))
        if not self._table.is_number[len(prefix)]:
            return
        low = last if last is not None else max(0, end - SPAN) if end is not None else -1
        gaps = deque([(low, end if end is not None else low + SPAN)])
        while gaps and self._probes > 0:  # the widest first
            low, high = gaps.popleft()
            if high - low < 2:
                continue
            middle = (low + high) // 2
            whole, last = yield from self._read(prefix, (middle, high - 1))
            gaps.append((low, middle))
            if whole:
                continue
            self._probes -= 1
            reached = middle if last is None else last
            if deeper:
                for value in {middle, reached}:
                    yield from self.rows((*prefix, value))
            gaps.append((reached, high))

    def _read(
        self, prefix: Sequence[Any], span: tuple[int, int] | None = None, *, backwards: bool = False
    ) -> Generator[Row, None, tuple[bool, Any]]:
        """Read on until the end or the damage. Returns whether it was the end, and the last value of the next column.

        Args:
            span: least and greatest value of the next column.
        """
        key = self._table.key
        where = [f"{column} = ?" for column in key[: len(prefix)]]
        values = list(prefix)
        if span is not None:
            where.append(f"{key[len(prefix)]} BETWEEN ? AND ?")
            values += span
        order = ", ".join(f"{column} DESC" if backwards else column for column in key)
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        at = self._table.columns.index(key[min(len(prefix), len(key) - 1)])
        last = None
        try:
            for row in self._old.execute(f"{self._select} {condition} ORDER BY {order}", values):
                last = row[at]
                yield row
        except _DAMAGE:
            return False, last
        return True, last
