"""The catalog's transactions, without its tables' meaning.

Changes go through `_change`, reads through `_rows`. The file beneath is `catalog_file`.

**Transactions.** One is opened by the first change and ended by `commit`. When SQLite meets a full or broken disk it
rolls the *whole* transaction back, also in COMMIT. What was answered to the kernel must not vanish like that, so
every change is noted in `_redo` and done again: statements are deterministic, and pages reach the disk only in
COMMIT (no cache spill, temporary tables in memory), so doing them again needs no room. A savepoint is a place in
that list and nothing that SQLite knows: to undo it, the transaction is rolled back and done again up to there.
Rows that are put or deleted late (`catalog_behind`) get into it before the transaction ends.

**Outbox.** What a transaction changes in the replicated tables becomes a row of `l_outbox` as its last step. That row
is not in `_redo`: a COMMIT that fails rolls it back with the rest, and one that is tried again works it out again.

**Counters** live in memory and are written with the commit. Numbers are not taken back by a rollback; sums are.
Local counters are written at once: few numbers are taken from them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import apsw

from bitdustfs.edges.catalog_behind import GoneBehind, RowsBehind
from bitdustfs.edges.catalog_file import CatalogFile
from bitdustfs.edges.catalog_outbox import Recorder, Touched
from bitdustfs.edges.catalog_step import SqliteStep
from bitdustfs.edges.catalog_versioned import FIRST_GENERATION, LIVE, Versioned
from bitdustfs.edges.memory import give_memory_back
from bitdustfs.errors import BitdustError, DiskFull, Unavailable
from bitdustfs.model import Ino, Inode, Snapshot

_LAST_IN_OUTBOX = "SELECT coalesce(max(no), 0) FROM l_outbox"
_PUT_LOCAL_COUNTER = """
    INSERT INTO l_counter (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""
_LIVE_BYTES = """
    SELECT coalesce(sum(length), 0) FROM (SELECT max(length) AS length FROM r_chunk WHERE block = ?1 GROUP BY slot)
"""
_RECOUNT_LIVE = f"UPDATE r_block SET live = ({_LIVE_BYTES}) WHERE block = ?1 AND live <> ({_LIVE_BYTES})"
_KEPT = "SELECT coalesce(max(generation), 0) FROM r_snapshot WHERE NOT gone"
OWN_MOST = 50_000  # (tune) keys: about 8 MB
_PUT_CHANGES = "INSERT OR REPLACE INTO l_outbox (no, changes) VALUES (?, ?)"
_log = logging.getLogger(__name__)


class Store(CatalogFile):
    """An open catalog file with transactions.

    Args:
        path: the file, or ":memory:" for one that ends with the process; then `harden` and `checkpoint` do nothing.
        create: make it; otherwise it must exist.
        read_only: change nothing, and look for no damage: what can be read is read.
        vfs: name of SQLite's layer to the disk; for tests.
        sync: makes a descriptor's bytes durable, raises OSError; for tests.
    Raises:
        NotFound, AlreadyThere: by `create`. BadFormat: not a catalog, or of an unknown version; CatalogDamaged,
        LogDamaged: it was not changed. InUse, Forbidden, DiskFull, DiskFault.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        read_only: bool = False,
        vfs: str = "",
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self._redo: list[tuple[str, Sequence[Any]]] = []
        self._step: SqliteStep | None = None
        self._noting: list[tuple[str, Sequence[Any]]] | None = None  # instead of being made, changes are noted there
        self._savepoints: list[Savepoint] = []
        self._begun_savepoints = 0  # in how many of them something was changed
        self._open = False  # a transaction
        self._pending = 0
        self._behind: RowsBehind[Ino, tuple[Inode, bool]] = RowsBehind()  # and whether the file has none of it
        self._gone = GoneBehind()  # inodes that were dropped, with rows that are still there
        super().__init__(path, create=create, read_only=read_only, vfs=vfs, sync=sync)
        self._counters: dict[str, int] = dict(self._rows("SELECT name, value FROM r_counter"))
        self._stale: set[str] = set()  # counters that the file does not have yet
        self._local_counters: dict[str, int] = dict(self._rows("SELECT name, value FROM l_counter"))
        self._last_change: int = max(self._rows(_LAST_IN_OUTBOX)[0][0], self._local_counters.get("change", 0))
        self._touched = Touched(self._last_change)
        self._recorder = Recorder(self._connection)
        self._kept: int | None = None  # see `kept_generation`; None: to be asked
        self._snapshots: tuple[Snapshot, ...] | None = None  # all there are, also gone ones; None: to be asked
        self._own: set[tuple[Any, ...]] = set()  # (table, key …) of which no snapshot has the live row

    # -- transactions ------------------------------------------------------------------------------------
    def savepoint(self) -> Savepoint:
        """Undo everything inside the `with` if it raises."""
        return Savepoint(self)

    @property
    def connection(self) -> apsw.Connection:
        """For tests and tools, with all rows put. Whoever changes some through it goes behind the caches."""
        if (self._behind or self._gone) and self.failure is None:
            self._put_behind()
        return self._connection

    @property
    def pending(self) -> int:
        """How many savepoints and single changes the open transaction holds."""
        return self._pending

    def commit(self) -> None:
        """End the open transaction, and leave its changes in the outbox. Survives `kill -9`, not yet a power loss.

        Raises:
            DiskFull, DiskFault: the transaction stays open and may be committed later.
        """
        if self._savepoints:
            raise RuntimeError("commit inside a savepoint would break its promise")
        if self._damage is not None:
            raise self._damage.with_traceback(None)
        self._put_behind()
        if not self._open and not self._stale:
            return
        pending = self._pending
        for name in sorted(self._stale):
            self._change("UPDATE r_counter SET value = ?2 WHERE name = ?1", (name, self._counters[name]))
        self._stale.clear()
        self._pending = pending
        try:
            changed = self._end()
        except DiskFull:
            try:
                changed = self._end()  # in the room that `_failed` has made
            except BitdustError:
                give_memory_back()  # each try has the whole transaction in memory, several times
                raise
        self._open = False
        self._last_change += changed
        self._touched.committed(self._last_change if changed else None)
        self._redo.clear()
        self._pending = 0
        self._log.turn.leave()
        self._syncing.changed()

    def close(self) -> None:
        """Commit and let go of the file. A damaged one is left as it is."""
        try:
            if self._damage is None:
                self.commit()
        finally:
            if self.failure is not None:
                self._keep_log()
            self._let_go()

    # -- steps -------------------------------------------------------------------------------------------
    @contextmanager
    def noted(self) -> Iterator[list[tuple[str, Sequence[Any]]]]:
        """Have what is changed inside, local rows only, noted for a step (`catalog_step`) and not made."""
        self._noting = noted = list[tuple[str, Sequence[Any]]]()
        try:
            yield noted
        finally:
            self._noting = None

    def step(self) -> SqliteStep:
        """Prepare the way to the state of another head. Nothing may be changed here until it was closed.

        Raises:
            RuntimeError: a transaction is open.
        """
        if self._open or self._behind or self._gone or self._in_memory:
            raise RuntimeError("a step begins between transactions, not inside one, and with a file")
        self._step = SqliteStep(self.path, self._vfs, self._stepped)
        return self._step

    def _stepped(self) -> None:
        """Another state is in the file: forget what was remembered of the one before."""
        self._undone()
        self._counters = dict(self._rows("SELECT name, value FROM r_counter"))
        self._local_counters = dict(self._rows("SELECT name, value FROM l_counter"))
        self._last_change = max(self._rows(_LAST_IN_OUTBOX)[0][0], self._local_counters.get("change", 0))
        self._touched = Touched(self._last_change)
        self._log.grew(os.stat(self.path + "-wal").st_size)
        self._syncing.changed()

    # -- generations -------------------------------------------------------------------------------------
    @property
    def generation(self) -> int:
        """The current generation: what is changed now belongs to it."""
        return self._counters["generation"]

    @property
    def has_one_generation(self) -> bool:
        """There never was a snapshot: no row has to be closed."""
        return self.generation == FIRST_GENERATION

    @property
    def kept_generation(self) -> int:
        """The newest one that a snapshot keeps; 0: none does. Live rows that it has are not changed, but closed."""
        if self._kept is None:
            self._kept = int(self._read(_KEPT)[0][0])
        return self._kept

    def put_live(self, table: Versioned, key: Sequence[Any], values: Sequence[Any], *, is_new: bool = False) -> None:
        """Insert or replace the live row with this whole key; what a snapshot has of it is closed.

        Args:
            is_new: there is no live row with this key.
        """
        generation = self._counters["generation"]
        row = (*key, generation, LIVE, *values)
        if generation == FIRST_GENERATION:
            self._change(table.put, row)
            return
        place = (table.table, *key)
        if is_new or place in self._own:
            self._change(table.put, row)
        else:
            with self.savepoint():
                kept = self.kept_generation
                if kept:
                    self._change(table.close[len(key)], (*key, generation, kept))
                if kept < generation - 1:
                    self._change(table.drop_older[len(key)], (*key, generation))
                self._change(table.put, row)
        self._note_own(place)

    def drop_live(self, table: Versioned, key: Sequence[Any]) -> None:
        """Take the live rows with these first key columns out of the current generation."""
        generation = self._counters["generation"]
        is_whole = len(key) == len(table.key)
        place = (table.table, *key)
        kept = 0 if generation == FIRST_GENERATION or (is_whole and place in self._own) else self.kept_generation
        if not kept:
            self._change(table.drop[len(key)], key)
            return
        with self.savepoint():
            self._change(table.close[len(key)], (*key, generation, kept))
            self._change(table.drop[len(key)], key)
        if is_whole:
            self._note_own(place)

    def _drop_live_span(self, table: Versioned, first: int, last: int) -> None:
        """The same of all live rows with a first key column from `first` to `last`."""
        kept = 0 if self.generation == FIRST_GENERATION else self.kept_generation
        if kept:
            self._change(table.close_span, (first, last, self.generation, kept))
        self._change(table.drop_span, (first, last))

    def _drop_live_part(self, table: Versioned, first_key: int, first: int, last: int) -> None:
        """The same of all live rows with this first key column, and a second one from `first` to `last`."""
        kept = 0 if self.has_one_generation else self.kept_generation
        if kept:
            self._change(table.close_part, (first_key, first, last, self.generation, kept))
        self._change(table.drop_part, (first_key, first, last))

    def _put_live_all(self, table: Versioned, rows: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> None:
        """Put live rows, each a key and values, where there are none; inside a savepoint.

        While there is one generation only, they take the place of those with the same key.
        """
        generation = self.generation
        self._change_all(table.put, [(*key, generation, LIVE, *values) for key, values in rows])
        if not self.has_one_generation:
            for key, _ in rows:
                self._note_own((table.table, *key))

    def _note_own(self, place: tuple[Any, ...]) -> None:
        """From now on, until the next snapshot, no snapshot has a live row with this key."""
        if len(self._own) >= OWN_MOST:
            self._own.clear()
        self._own.add(place)

    def _end_generation(self) -> int:
        """From now on changes belong to the next generation. Returns the number of the one that ended."""
        if self._savepoints:
            raise RuntimeError("a generation ends between operations, not inside one")
        self._put_behind()
        self._own.clear()
        ended = self._take("generation")
        self._change("UPDATE r_counter SET value = ?2 WHERE name = ?1", ("generation", ended + 1))
        return ended

    # -- for the tables ----------------------------------------------------------------------------------
    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._gone and self.failure is None:
            self._put_gone()
        return self._read(sql, bindings)

    def _rows_of(self, ino: Ino, sql: str, bindings: Sequence[Any]) -> list[tuple[Any, ...]]:
        """`_rows` that belong to one inode."""
        return self._rows(sql, bindings) if ino in self._gone else self._read(sql, bindings)

    def _put_gone_of(self, ino: Ino) -> None:
        """Before rows of an inode are put: those of the dropped one of that number are deleted now, not after."""
        if ino in self._gone:
            self._put_gone()

    def _read(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """`_rows`, where it makes no difference whether rows of dropped inodes are still there."""
        try:
            return self._cursor.execute(sql, bindings).fetchall()
        except apsw.Error as e:
            self._failed(e)

    def _change(self, sql: str, bindings: Sequence[Any] = ()) -> None:
        if self._noting is not None:
            self._noting.append((sql, bindings))
            return
        self._refuse_if_failed()
        if not self._open or self._begun_savepoints < len(self._savepoints):
            self._open_all()
        self._run(sql, bindings)
        self._redo.append((sql, bindings))
        if not self._savepoints:
            self._pending += 1

    def _change_all(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same for many rows, inside a savepoint: if one fails, some of them were changed."""
        if not rows:
            return
        if self._noting is not None:
            self._noting.extend(zip(repeat(sql), rows))
            return
        self._change(sql, rows[0])
        try:
            self._cursor.executemany(sql, rows[1:])
        except apsw.Error as e:
            self._failed(e)
        self._redo.extend(zip(repeat(sql), rows[1:]))

    def _refuse_if_failed(self) -> None:
        if self._step is not None and self._step.is_open:
            raise Unavailable(what="a newer state of the volume is being taken in: try again in a moment")
        if self._damage is not None or self._read_only:
            assert self.failure is not None
            raise self.failure.with_traceback(None)

    def _keep_behind(self, ino: Ino, inode: Inode, *, is_new: bool) -> None:
        """Have an inode's row put by `_put_behind`, instead of an earlier one."""
        self._refuse_if_failed()
        before = self._behind.get(ino)
        row = inode, is_new if before is None else before[1]
        self._behind.keep(ino, row, is_marked=bool(self._savepoints))
        if not self._savepoints:
            self._pending += 1

    def _put_behind(self) -> None:
        """Put the rows that were kept; before their table is read."""

    def _put_gone(self) -> None:
        """Delete all rows of dropped inodes; before any of their tables is read."""

    def _take(self, counter: str) -> int:
        number = self._counters[counter]
        self._counters[counter] = number + 1
        self._stale.add(counter)
        return number

    def _take_local(self, counter: str) -> int:
        number = self._local_counters.get(counter, 0) + 1
        self._put_local_counter(counter, number)
        return number

    def _put_local_counter(self, counter: str, value: int) -> None:
        self._local_counters[counter] = value
        self._change(_PUT_LOCAL_COUNTER, (counter, value))

    def _count(self, counter: str, more: int) -> None:
        """Add to a sum; inside a transaction only, so that a rollback takes it back."""
        if more:
            self._counters[counter] += more
            self._stale.add(counter)

    def _recount_live(self, blocks: Iterable[int]) -> None:
        """Count again how much of these blocks is chunks."""
        for block in blocks:
            self._change(_RECOUNT_LIVE, (block,))

    def _undone(self) -> None:
        """Called when changes are rolled back: caches must forget."""
        self._kept = self._snapshots = None
        self._own.clear()

    # -- private -----------------------------------------------------------------------------------------
    def _open_all(self) -> None:
        if not self._open:
            self._log.turn.enter()
            try:
                self._run("BEGIN IMMEDIATE")
            except BaseException:
                self._log.turn.leave()
                raise
            self._open = True
            self._recorder.begin()
        while self._begun_savepoints < len(self._savepoints):
            self._savepoints[self._begun_savepoints].start(len(self._redo))
            self._begun_savepoints += 1

    def _undo(self, mark: int) -> None:
        """Take back all changes of the open transaction but the first `mark`.

        SQLite could keep savepoints. But each costs two statements and a copy of every page that is changed inside,
        and in memory the end of an inner one takes as long as the outermost one has changed so far. To fail is rare.
        """
        del self._redo[mark:]
        try:
            self._cursor.execute("ROLLBACK")
            self._do_again()
        except apsw.Error as e:
            self._connection.close()  # reads would now show an older state, or half of a change
            raise self._translated(e) from e

    def _do_again(self) -> None:
        self._cursor.execute("BEGIN IMMEDIATE")
        for sql, bindings in self._redo:
            self._cursor.execute(sql, bindings)

    def _end(self) -> bool:
        """Commit, with a row of the outbox if replicated rows were changed. Says whether there is one."""
        try:
            changes = self._recorder.changes()
        except apsw.Error as e:
            self._failed(e)
        if changes:
            self._run(_PUT_CHANGES, (self._last_change + 1, changes))
        self._run("COMMIT")
        self._recorder.end()
        return bool(changes)

    def _run(self, sql: str, bindings: Sequence[Any] = ()) -> None:
        try:
            self._cursor.execute(sql, bindings)
        except apsw.Error as e:
            self._failed(e)

    def _failed(self, error: apsw.Error) -> NoReturn:
        """Have the open transaction again if SQLite rolled it back, and say what happened in our words."""
        try:
            if self._open and not self._connection.in_transaction:
                if isinstance(error, apsw.FullError):
                    self._reuse_log()
                self._do_again()
        except apsw.Error:
            # reads would now show an older state as if it were the last one: no reads, then
            self._connection.close()
        raise self._translated(error) from error

    def _reuse_log(self) -> None:
        """Have the WAL written from its start again. On the loop: the disk is full, and no transaction is open."""
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as e:
            _log.debug("the log of the catalog cannot be copied now: %s", e)


class Savepoint:
    """A group of changes that is undone whole if the `with` raises; see `Store.savepoint`."""

    __slots__ = ("_gone", "_kept", "_mark", "_store", "_sums")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mark = -1  # length of the redo list before it; -1: no statement was run yet

    def start(self, mark: int) -> None:
        """Note where it begins: just before the first statement inside it."""
        self._mark = mark

    def __enter__(self) -> None:
        store = self._store
        self._kept = store._behind.mark()
        self._gone = store._gone.mark()
        self._sums = store._counters["inodes"], store._counters["file_bytes"]
        store._savepoints.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        store._savepoints.pop()
        has_run = self._mark >= 0
        if has_run:
            store._begun_savepoints -= 1
        if kind is None:
            if not store._savepoints:
                store._pending += has_run or store._behind.mark() > 0 or store._gone.mark() != self._gone
                store._behind.forget_marks()
                store._gone.forget_marks()
            return
        is_undone = store._behind.undo(self._kept)
        if not store._gone.undo(self._gone) and not is_undone and not has_run:
            return
        store._counters["inodes"], store._counters["file_bytes"] = self._sums
        store._undone()
        if not store._behind and not store._gone and not (self._mark if has_run else store._redo):
            store._touched.undone()
        if has_run:
            store._undo(self._mark)
