"""The catalog's file: connection, format, transactions, durability.

One connection, used on the loop, does all reading and writing; a second one, used in a worker only, moves the
write-ahead log (WAL) into the file. Changes go through `_change`, reads through `_rows`.

**Transactions.** One is opened by the first change and ended by `commit`. When SQLite meets a full or broken disk it
rolls the *whole* transaction back, also in COMMIT. What was answered to the kernel must not vanish like that, so
every change is noted in `_redo` and done again: statements are deterministic, and pages reach the disk only in
COMMIT (no cache spill, temporary tables in memory), so doing them again needs no room. Savepoints are opened in
SQLite only when something changes inside them.

**Durability.** COMMIT writes the WAL without waiting for the disk (synchronous=NORMAL): it survives `kill -9`.
`harden` syncs the WAL in a worker. We hold our own descriptor on the WAL; on the main file we never may: closing any
descriptor of it drops SQLite's POSIX locks in this process.

**Damage.** When SQLite finds the file damaged, that request fails, and nothing is written to it any more: neither
changes nor a checkpoint, which could only make it worse. The same when the log could not be synced: what is in it
may not be what we read. `failure` says so. A store can be opened `read_only`, to save what can be read.

**Counters** live in memory and are written with the commit. Numbers are not taken back by a rollback; sums are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import apsw
import trio

from bitdustfs.edges.catalog_check import LogGap, check_file, log_gap
from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import check_or_make, connect, refuse_foreign
from bitdustfs.edges.catalog_log import WAL_LIMIT_BYTES, WriteAheadLog
from bitdustfs.edges.catalog_versioned import FIRST_GENERATION, LIVE, Versioned
from bitdustfs.edges.durable import sync_directory, translated
from bitdustfs.edges.shared_sync import SharedSync
from bitdustfs.errors import BitdustError, CatalogDamaged, DiskFull, LogDamaged, ReadOnly

MEMORY = ":memory:"
_CACHE_KIB = 16 * 1024  # page cache
_log = logging.getLogger(__name__)


class Store:
    """An open catalog file, without its tables' meaning.

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
        self.path = str(path)
        self._in_memory = self.path == MEMORY
        self._vfs = vfs or None
        self._redo: list[tuple[str, Sequence[Any]]] = []
        self._savepoints: list[Savepoint] = []
        self._opened_savepoints = 0  # how many of them SQLite knows
        self._open = False  # a transaction
        self._pending = 0
        self._log = WriteAheadLog(self.path, self._vfs, self._translated)
        self._wal = -1
        self._wal_index = -1
        self._read_only = read_only
        self._damage: BitdustError | None = None
        if not self._in_memory:
            refuse_foreign(Path(self.path), create=create)
        try:
            self._connection = connect(self.path, self._vfs, read_only=read_only)
        except apsw.Error as e:
            raise from_sqlite(e, self.path, system_errno=0) from e
        try:
            self._open_file(create=create)
        except BaseException as e:
            ours = self._translated(e) if isinstance(e, apsw.Error | OSError) else None
            self._let_go()
            if ours is not None:
                raise ours from e
            raise
        self._cursor = self._connection.cursor()
        self._counters: dict[str, int] = dict(self._rows("SELECT name, value FROM r_counter"))
        self._stale: set[str] = set()  # counters that the file does not have yet
        self._syncing = SharedSync(lambda: sync(self._wal), self._translated)
        self._syncing.changed()  # what a process that was killed has left in the log is not synced

    @property
    def connection(self) -> apsw.Connection:
        """For what records changesets. Whoever changes rows through it goes behind the caches."""
        return self._connection

    @property
    def failure(self) -> BitdustError | None:
        """Why it takes no changes until it was closed and repaired. None: it does."""
        if self._damage is not None:
            return self._damage
        if self._read_only:
            return ReadOnly(what=f"the catalog {self.path} was opened only to read what is left")
        if self._syncing.failure is None:
            return None
        return ReadOnly(
            what=f"the log of the catalog could not be made durable ({self._syncing.failure}): "
            "unmount it, look after the disk, and mount it again"
        )

    # -- transactions ------------------------------------------------------------------------------------
    def savepoint(self) -> Savepoint:
        """Undo everything inside the `with` if it raises."""
        return Savepoint(self)

    @property
    def pending(self) -> int:
        """How many savepoints and single changes the open transaction holds."""
        return self._pending

    def commit(self) -> None:
        """End the open transaction. Survives `kill -9`, not yet a power loss.

        Raises:
            DiskFull, DiskFault: the transaction stays open and may be committed later.
        """
        if self._savepoints:
            raise RuntimeError("commit inside a savepoint would break its promise")
        if self._damage is not None:
            raise self._damage.with_traceback(None)
        if not self._open and not self._stale:
            return
        pending = self._pending
        for name in sorted(self._stale):
            self._change("UPDATE r_counter SET value = ?2 WHERE name = ?1", (name, self._counters[name]))
        self._stale.clear()
        self._pending = pending
        try:
            self._run("COMMIT")
        except DiskFull:
            self._run("COMMIT")  # in the room that `_failed` has made
        self._open = False
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

    # -- durability --------------------------------------------------------------------------------------
    async def harden(self) -> None:
        """Make everything committed so far survive a power loss. Concurrent calls share one fdatasync.

        Raises:
            DiskFull, DiskFault: and so will every later call. What was committed is still read.
        """
        if self._in_memory or self._read_only:
            await trio.lowlevel.checkpoint()
            return
        await self._syncing.harden()

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file, in a worker, if it has grown.

        Raises:
            DiskFull, DiskFault, ReadOnly: the WAL still has everything.
        """
        await self._log.checkpoint(failure=self.failure)

    # -- generations -------------------------------------------------------------------------------------
    @property
    def generation(self) -> int:
        """The current generation: what is changed now belongs to it."""
        return self._counters["generation"]

    def begin_generation(self) -> int:
        """End the current generation: from now on its rows are kept as they are. Returns its number."""
        if self._savepoints:
            raise RuntimeError("a generation ends between operations, not inside one")
        ended = self._take("generation")
        self._change("UPDATE r_counter SET value = ?2 WHERE name = ?1", ("generation", ended + 1))
        return ended

    def put_live(self, table: Versioned, key: Sequence[Any], values: Sequence[Any]) -> None:
        """Insert or replace the live row with this whole key: in place only in the generation it was born in."""
        generation = self._counters["generation"]
        row = (*key, generation, LIVE, *values)
        if generation == FIRST_GENERATION:
            self._change(table.put, row)
            return
        with self.savepoint():
            self._change(table.close[len(key)], (*key, generation))
            self._change(table.put, row)

    def drop_live(self, table: Versioned, key: Sequence[Any]) -> None:
        """Take the live rows with these first key columns out of the current generation."""
        generation = self._counters["generation"]
        if generation == FIRST_GENERATION:
            self._change(table.drop[len(key)], key)
            return
        with self.savepoint():
            self._change(table.close[len(key)], (*key, generation))
            self._change(table.drop[len(key)], key)

    # -- for the tables ----------------------------------------------------------------------------------
    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._cursor.execute(sql, bindings).fetchall()
        except apsw.Error as e:
            self._failed(e)

    def _change(self, sql: str, bindings: Sequence[Any] = ()) -> None:
        if self._damage is not None or self._read_only:
            assert self.failure is not None
            raise self.failure.with_traceback(None)
        if not self._open or self._opened_savepoints < len(self._savepoints):
            self._open_all()
        self._run(sql, bindings)
        self._redo.append((sql, bindings))
        if not self._savepoints:
            self._pending += 1

    def _take(self, counter: str) -> int:
        number = self._counters[counter]
        self._counters[counter] = number + 1
        self._stale.add(counter)
        return number

    def _count(self, counter: str, more: int) -> None:
        """Add to a sum; inside a transaction only, so that a rollback takes it back."""
        if more:
            self._counters[counter] += more
            self._stale.add(counter)

    def _undone(self) -> None:
        """Called after changes were rolled back: caches must forget."""

    # -- private -----------------------------------------------------------------------------------------
    def _open_file(self, *, create: bool) -> None:
        """See that the file is ours and sound, before anything is written to it."""
        log_changed_s = _changed_s(self.path + "-wal")
        self._connection.pragma("cell_size_check", 1)
        self._keep_log()  # until it is known to be sound
        check_or_make(self._connection, self.path, create=create or self._in_memory)
        if self._read_only:
            self._connection.pragma("cache_size", -_CACHE_KIB)
            return
        if not create and not self._in_memory:
            check_file(self._connection, self.path, size_bytes=os.stat(self.path).st_size)
            if log_changed_s is not None:
                self._check_log(log_changed_s)
        self._configure()
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)

    def _check_log(self, changed_s: float) -> None:
        self._wal_index = os.open(self.path + "-shm", os.O_RDONLY | os.O_CLOEXEC)
        gap = log_gap(self.path, index_descriptor=self._wal_index, log_changed_s=changed_s)
        if gap is LogGap.DAMAGE:
            raise LogDamaged(path=self.path)
        if gap is LogGap.POWER_LOSS:
            _log.warning("the machine went down, and changes of its last moments that were not synced are lost")

    def _keep_log(self) -> None:
        """Have the write-ahead log left as it is when we close."""
        for connection in (self._log.copier, self._connection):
            if connection is not None and connection.filename:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _let_go(self) -> None:
        for connection in (self._log.copier, self._connection):
            if connection is not None:
                connection.close()
        for descriptor in (self._wal, self._wal_index):  # not before: closing one drops SQLite's locks
            if descriptor >= 0:
                os.close(descriptor)
        self._wal = self._wal_index = -1

    def _configure(self) -> None:
        self._connection.pragma("wal_autocheckpoint", 0)
        self._connection.pragma("cache_size", -_CACHE_KIB)
        self._connection.pragma("cache_spill", 0)
        self._connection.pragma("temp_store", 2)
        self._connection.pragma("trusted_schema", 0)
        if self._in_memory:
            return
        self._connection.pragma("synchronous", 1)
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("journal_size_limit", WAL_LIMIT_BYTES)
        self._connection.execute("SELECT count(*) FROM r_counter").fetchall()  # makes the -wal
        self._wal = os.open(self.path + "-wal", os.O_RDWR | os.O_CLOEXEC)
        self._log.watch(self._connection, os.fstat(self._wal).st_size)
        sync_directory(Path(self.path).parent)

    def _open_all(self) -> None:
        if not self._open:
            self._log.turn.enter()
            try:
                self._run("BEGIN IMMEDIATE")
            except BaseException:
                self._log.turn.leave()
                raise
            self._open = True
        while self._opened_savepoints < len(self._savepoints):
            self._run("SAVEPOINT s")
            sums = self._counters["inodes"], self._counters["file_bytes"]
            self._savepoints[self._opened_savepoints].start(len(self._redo), sums)
            self._redo.append(("SAVEPOINT s", ()))
            self._opened_savepoints += 1

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
                self._cursor.execute("BEGIN IMMEDIATE")
                for sql, bindings in self._redo:
                    self._cursor.execute(sql, bindings)
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

    def _translated(self, error: apsw.Error | OSError) -> BitdustError:
        if isinstance(error, OSError):
            return translated(error, Path(self.path))
        ours = from_sqlite(error, self.path, system_errno=self._connection.system_errno)
        if isinstance(ours, CatalogDamaged) and self._damage is None:
            _log.error("%s; nothing is written to it any more", ours)
            self._damage = ReadOnly(what=str(ours))
        return ours


def _changed_s(path: str) -> float | None:
    """When a file was last written, or None if there is nothing in it."""
    try:
        seen = os.stat(path)
    except FileNotFoundError:
        return None
    return seen.st_mtime if seen.st_size else None


class Savepoint:
    """A group of changes that is undone whole if the `with` raises; see `Store.savepoint`."""

    __slots__ = ("_mark", "_store", "_sums")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mark = -1  # length of the redo list before it; -1: nothing changed yet
        self._sums = (0, 0)

    def start(self, mark: int, sums: tuple[int, int]) -> None:
        """Note where it begins: just before the first change inside it."""
        self._mark = mark
        self._sums = sums

    def __enter__(self) -> None:
        self._store._savepoints.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        store._savepoints.pop()
        if self._mark < 0:
            return
        store._opened_savepoints -= 1
        if kind is not None:
            del store._redo[self._mark :]
            store._counters["inodes"], store._counters["file_bytes"] = self._sums
            store._undone()
            store._run("ROLLBACK TO s; RELEASE s")
            return
        store._run("RELEASE s")
        store._redo.append(("RELEASE s", ()))
        if not store._savepoints:
            store._pending += 1
