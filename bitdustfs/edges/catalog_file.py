"""The catalog's file, open: connection, write-ahead log, durability, damage.

One connection, used on the loop, does all reading and writing; a second one, used in a worker only, moves the
write-ahead log (WAL) into the file.

**Durability.** COMMIT writes the WAL without waiting for the disk (synchronous=NORMAL): it survives `kill -9`.
`harden` syncs the WAL in a worker. We hold our own descriptor on the WAL; on the main file we never may: closing any
descriptor of it drops SQLite's POSIX locks in this process.

**Damage.** When SQLite finds the file damaged, that request fails, and nothing is written to it any more: neither
changes nor a checkpoint, which could only make it worse. The same when the log could not be synced: what is in it
may not be what we read. `failure` says so. A file can be opened `read_only`, to save what can be read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw
import trio

from bitdustfs.edges.catalog_check import LogGap, check_file, log_gap
from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import check_or_make, connect, refuse_foreign
from bitdustfs.edges.catalog_log import WAL_LIMIT_BYTES, WriteAheadLog
from bitdustfs.edges.durable import sync_directory, translated
from bitdustfs.edges.shared_sync import SharedSync
from bitdustfs.errors import BitdustError, CatalogDamaged, LogDamaged, ReadOnly

MEMORY = ":memory:"
_CACHE_KIB = 16 * 1024  # page cache
_log = logging.getLogger(__name__)


class CatalogFile:
    """An open catalog file, without transactions; see `Store`, which has them, for the arguments and errors."""

    def __init__(
        self, path: str | Path, *, create: bool, read_only: bool, vfs: str, sync: Callable[[int], None]
    ) -> None:
        self.path = str(path)
        self._in_memory = self.path == MEMORY
        self._vfs = vfs or None
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
        self._syncing = SharedSync(lambda: sync(self._wal), self._translated)
        self._syncing.changed()  # what a process that was killed has left in the log is not synced

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

    def _keep_log(self) -> None:
        """Have the write-ahead log left as it is when we close."""
        for connection in (self._log.copier, self._connection):
            if connection is not None:
                with suppress(apsw.ConnectionClosedError):
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _let_go(self) -> None:
        for connection in (self._log.copier, self._connection):
            if connection is not None:
                connection.close()
        for descriptor in (self._wal, self._wal_index):  # not before: closing one drops SQLite's locks
            if descriptor >= 0:
                os.close(descriptor)
        self._wal = self._wal_index = -1

    def _translated(self, error: apsw.Error | OSError) -> BitdustError:
        if isinstance(error, OSError):
            return translated(error, Path(self.path))
        try:
            system_errno = self._connection.system_errno
        except apsw.ConnectionClosedError:  # by us, because what it would show is older than what was answered
            system_errno = 0
        ours = from_sqlite(error, self.path, system_errno=system_errno)
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
