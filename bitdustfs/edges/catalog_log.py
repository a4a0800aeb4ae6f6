"""The catalog's write-ahead log (WAL): how large it is, and how it gets into the file.

A passive checkpoint copies what it can beside a writer, but the WAL is reused from its start only when a transaction
begins while nothing is left to copy. Under load that never happens by chance, so above `WAL_LIMIT_BYTES` the worker
claims the turn between two transactions and copies the small rest there, while the next writer waits. On a disk with
little room the log is kept small, so that the file can grow by what is in it.

The copying has a connection of its own, used in a worker only.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import apsw
import trio

from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_turn import Turn
from bitdustfs.errors import BitdustError

CHECKPOINT_BYTES = 8 * 1024 * 1024  # (tune) less is not worth two fsyncs, and hot pages are copied once only
WAL_LIMIT_BYTES = 64 * 1024 * 1024  # (tune) above it the next writer waits for the rest of a checkpoint: two fsyncs
SMALL_REST_BYTES = 1024 * 1024  # (tune) what may be left to copy while the next writer waits
DISK_SHARE = 4  # the log takes at most one part in so many of what is free
COPIES = 4  # passes beside the writer; each leaves what was written during the one before, so they get shorter
TURN_S = 1.0  # how long a checkpoint waits for the open transaction to end; the next one tries again
_FRAME_BYTES = 4096 + 24  # a page and its header


class WriteAheadLog:
    """The log of one open catalog.

    Args:
        translate: turns SQLite's errors into ours.
    """

    def __init__(self, path: str, vfs: str | None, translate: Callable[[apsw.Error], BitdustError]) -> None:
        self._path = path
        self._vfs = vfs
        self._translate = translate
        self._bytes = 0
        self._copied_bytes = 0  # how much of it is in the file already
        self._copying = trio.Lock()
        self.turn = Turn()
        self.copier: apsw.Connection | None = None

    def watch(self, connection: apsw.Connection, size_bytes: int) -> None:
        """Follow the size of the log, which has so many bytes now, as `connection` commits."""
        self._bytes = size_bytes
        connection.set_wal_hook(self._grew)

    def grew(self, size_bytes: int) -> None:
        """Somebody else's connection has written to it: it has so many bytes now."""
        self._bytes = max(self._bytes, size_bytes)

    async def checkpoint(self, *, failure: BitdustError | None) -> None:
        """Move the log into the file, in a worker, if it has grown.

        Args:
            failure: why that must not be done.
        Raises:
            DiskFull, DiskFault, ReadOnly: the log still has everything.
        """
        limit = min(WAL_LIMIT_BYTES, self._free_bytes() // DISK_SHARE)
        wanted = self._bytes - self._copied_bytes >= min(CHECKPOINT_BYTES, limit) or self._bytes > limit
        if not wanted or self._copying.locked():
            await trio.lowlevel.checkpoint()
            return
        if failure is not None:
            raise failure.with_traceback(None)
        async with self._copying:
            for _ in range(COPIES):
                await trio.to_thread.run_sync(self._copy)
                if self._bytes - self._copied_bytes < SMALL_REST_BYTES:
                    break
            if self._bytes > limit:
                await trio.to_thread.run_sync(self._copy_rest)

    def _free_bytes(self) -> int:
        try:
            disk = os.statvfs(os.path.dirname(self._path) or ".")
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize + self._bytes

    def _grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages * _FRAME_BYTES < self._bytes:
            self._copied_bytes = 0  # it begins anew
        self._bytes = pages * _FRAME_BYTES
        return apsw.SQLITE_OK

    def _copy(self) -> None:
        """Copy what can be copied beside a writer. In a worker."""
        try:
            if self.copier is None:
                self.copier = connect(self._path, self._vfs)
                self.copier.pragma("synchronous", 1)
            _, copied = self.copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return  # another process opens the catalog; the next checkpoint will do
        except apsw.Error as e:
            raise self._translate(e) from e
        self._copied_bytes = copied * _FRAME_BYTES

    def _copy_rest(self) -> None:
        """Copy everything while no transaction is open; the next one writes from the WAL's start. In a worker."""
        with self.turn.claim(TURN_S) as ours:
            if ours:
                self._copy()
