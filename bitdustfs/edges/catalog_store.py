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

**Checkpoints.** A passive one copies what it can beside a writer, but the WAL is reused from its start only when a
transaction begins while nothing is left to copy. Under load that never happens by chance, so above `WAL_LIMIT_BYTES`
the worker claims the turn between two transactions and copies the small rest there, while the next writer waits.

**Counters** live in memory and are written with the commit. Numbers are not taken back by a rollback; sums are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import apsw
import trio

from bitdustfs.edges.catalog_format import check_or_make, connect, refuse_foreign
from bitdustfs.edges.catalog_turn import Turn
from bitdustfs.edges.catalog_versioned import FIRST_GENERATION, LIVE, Versioned
from bitdustfs.edges.durable import sync_directory, translated
from bitdustfs.edges.shared_sync import SharedSync
from bitdustfs.errors import BadFormat, BitdustError, DiskFault, DiskFull, Forbidden, InUse

MEMORY = ":memory:"
CHECKPOINT_BYTES = 8 * 1024 * 1024  # (tune) less is not worth two fsyncs, and hot pages are copied once only
WAL_LIMIT_BYTES = 64 * 1024 * 1024  # (tune) above it the next writer waits for the rest of a checkpoint: two fsyncs
SMALL_REST_BYTES = 1024 * 1024  # (tune) what may be left to copy while the next writer waits
COPIES = 4  # passes beside the writer; each leaves what was written during the one before, so they get shorter
TURN_S = 1.0  # how long a checkpoint waits for the open transaction to end; the next one tries again
_CACHE_KIB = 16 * 1024  # page cache
_FRAME_BYTES = 4096 + 24  # of the WAL: a page and its header


class Store:
    """An open catalog file, without its tables' meaning.

    Args:
        path: the file, or ":memory:" for one that ends with the process; then `harden` and `checkpoint` do nothing.
        create: make it; otherwise it must exist.
        vfs: name of SQLite's layer to the disk; for tests.
        sync: makes a descriptor's bytes durable, raises OSError; for tests.
    Raises:
        NotFound, AlreadyThere: by `create`. BadFormat: not a catalog, damaged, or of an unknown version; it was not
        changed. InUse, Forbidden, DiskFull, DiskFault.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
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
        self._turn = Turn()
        self._wal_bytes = 0
        self._copied_bytes = 0  # how much of it is in the file already
        self._wal = -1
        self._copier: apsw.Connection | None = None
        self._copying = trio.Lock()
        if not self._in_memory:
            refuse_foreign(Path(self.path), create=create)
        try:
            self._connection = connect(self.path, self._vfs)
            check_or_make(self._connection, self.path, create=create or self._in_memory)
            self._configure()
        except apsw.Error as e:
            raise self._translated(e) from e
        self._cursor = self._connection.cursor()
        self._counters: dict[str, int] = dict(self._rows("SELECT name, value FROM r_counter"))
        self._stale: set[str] = set()  # counters that the file does not have yet
        self._syncing = SharedSync(lambda: sync(self._wal), self._translated)

    @property
    def connection(self) -> apsw.Connection:
        """For what records changesets. Whoever changes rows through it goes behind the caches."""
        return self._connection

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
        if not self._open and not self._stale:
            return
        pending = self._pending
        for name in sorted(self._stale):
            self._change("UPDATE r_counter SET value = ?2 WHERE name = ?1", (name, self._counters[name]))
        self._stale.clear()
        self._pending = pending
        self._run("COMMIT")
        self._open = False
        self._redo.clear()
        self._pending = 0
        self._turn.leave()
        self._syncing.changed()

    def close(self) -> None:
        """Commit and let go of the file."""
        try:
            self.commit()
        finally:
            connections = [self._connection] if self._copier is None else [self._copier, self._connection]
            for connection in connections:
                if self._syncing.failure is not None and connection.filename:
                    # the WAL may not be on the disk as we read it: do not copy it over good pages
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()
            if self._wal >= 0:
                os.close(self._wal)
                self._wal = -1

    # -- durability --------------------------------------------------------------------------------------
    async def harden(self) -> None:
        """Make everything committed so far survive a power loss. Concurrent calls share one fdatasync.

        Raises:
            DiskFull, DiskFault: and so will every later call. What was committed is still read.
        """
        if self._in_memory:
            await trio.lowlevel.checkpoint()
            return
        await self._syncing.harden()

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file, in a worker, if it has grown.

        Raises:
            DiskFull, DiskFault: the WAL still has everything.
        """
        wanted = self._wal_bytes - self._copied_bytes >= CHECKPOINT_BYTES or self._wal_bytes > WAL_LIMIT_BYTES
        if self._in_memory or not wanted or self._copying.locked():
            await trio.lowlevel.checkpoint()
            return
        if self._syncing.failure is not None:
            raise self._syncing.failure
        async with self._copying:
            for _ in range(COPIES):
                await trio.to_thread.run_sync(self._copy)
                if self._wal_bytes - self._copied_bytes < SMALL_REST_BYTES:
                    break
            if self._wal_bytes > WAL_LIMIT_BYTES:
                await trio.to_thread.run_sync(self._copy_rest)

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
    def _configure(self) -> None:
        self._connection.pragma("wal_autocheckpoint", 0)
        self._connection.pragma("cache_size", -_CACHE_KIB)
        self._connection.pragma("cache_spill", 0)
        self._connection.pragma("temp_store", 2)
        self._connection.pragma("cell_size_check", 1)
        self._connection.pragma("trusted_schema", 0)
        if self._in_memory:
            return
        self._connection.pragma("synchronous", 1)
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("journal_size_limit", WAL_LIMIT_BYTES)
        self._connection.execute("SELECT count(*) FROM r_counter").fetchall()  # makes the -wal
        self._connection.set_wal_hook(self._wal_grew)
        self._wal = os.open(self.path + "-wal", os.O_RDWR | os.O_CLOEXEC)
        self._wal_bytes = os.fstat(self._wal).st_size
        sync_directory(Path(self.path).parent)

    def _open_all(self) -> None:
        if not self._open:
            self._turn.enter()
            try:
                self._run("BEGIN IMMEDIATE")
            except BaseException:
                self._turn.leave()
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
                self._cursor.execute("BEGIN IMMEDIATE")
                for sql, bindings in self._redo:
                    self._cursor.execute(sql, bindings)
        except apsw.Error:
            # reads would now show an older state as if it were the last one: no reads, then
            self._connection.close()
        raise self._translated(error) from error

    def _translated(self, error: apsw.Error | OSError) -> BitdustError:
        if isinstance(error, OSError):
            return translated(error, Path(self.path))
        if isinstance(error, apsw.FullError):
            return DiskFull(path=self.path)
        if isinstance(error, apsw.IOError | apsw.ConnectionClosedError):
            return DiskFault(path=self.path, why=str(error))
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return BadFormat(what=f"the catalog {self.path} is damaged ({error}): restore it, or recover the volume")
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            return InUse(what=f"the catalog {self.path} is in use by another process")
        if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
            return Forbidden(what=f"the catalog {self.path} cannot be opened for writing: {error}")
        return BitdustError(what=f"the catalog {self.path}: {error!r}")

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages * _FRAME_BYTES < self._wal_bytes:
            self._copied_bytes = 0  # it begins anew
        self._wal_bytes = pages * _FRAME_BYTES
        return apsw.SQLITE_OK

    def _copy(self) -> None:
        """Copy what can be copied beside a writer. In a worker."""
        try:
            if self._copier is None:
                self._copier = connect(self.path, self._vfs)
                self._copier.pragma("synchronous", 1)
            _, copied = self._copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return  # another process opens the catalog; the next checkpoint will do
        except apsw.Error as e:
            raise self._translated(e) from e
        self._copied_bytes = copied * _FRAME_BYTES

    def _copy_rest(self) -> None:
        """Copy everything while no transaction is open; the next one writes from the WAL's start. In a worker."""
        with self._turn.claim(TURN_S) as ours:
            if ours:
                self._copy()


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
