"""Logged bytes: few spool bytes that an fsync made hard in the catalog's log, and not yet in the spool.

An fsync waits for two files, one after the other: the spool and the catalog's log. Of few bytes the second is
enough, if it has the bytes as well: a row of them is put into the transaction that calls them hard. The page cache
has them in the spool too, from where they are read and in the end synced; then the rows go. At a start all rows are
written into the spool again, before anything is read: after a power loss the spool may have lost them, and after a
failed sync the kernel.

A row may be written again at any time, for nothing else is ever written at a position that is hard. But positions
start anew when a spool file is removed: so that waits for a durable commit without rows of it.
"""

from __future__ import annotations

from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.filetable import FileTable
from bitdustfs.errors import NotFound
from bitdustfs.model import Ino
from bitdustfs.ports import Catalog, Spool

ONE_BYTES = 32 * 1024  # (tune) of an fsync: more is written twice for longer than the disk is waited for
FILE_BYTES = 128 * 1024  # (tune) of a file, then its spool file is synced: once in 32 fsyncs of 4 KiB
FILES_MOST = 32  # (tune) together at most 4 MiB: a start on a full disk has room for them in the spool's reserve


class Logged:
    """The rows of logged bytes, and which files have some."""

    def __init__(self, catalog: Catalog, spool: Spool, table: FileTable) -> None:
        self._catalog = catalog
        self._spool = spool
        self._table = table
        self._files: dict[Ino, FileLife] = {}  # with rows; some may be dead since

    def may_take(self, life: FileLife) -> bool:
        """Say whether all that is soft of a file may be logged.

        Not after a sync of its spool file failed: then no fsync of it may succeed. Dirty bytes that are summed and
        not hard tell of one in an earlier process.
        """
        length = life.spool_end - life.hard.until
        if life.sync_failed or life.hard.summed > life.hard.until:
            return False
        if length > ONE_BYTES or life.logged_bytes + length > FILE_BYTES:
            return False
        if life.ino not in self._files and len(self._files) >= FILES_MOST:
            self._files = {ino: each for ino, each in self._files.items() if not each.dead}
        return life.ino in self._files or len(self._files) < FILES_MOST

    def soft(self, life: FileLife, end: int) -> bytes:
        """The soft bytes below `end`, for `put`; zeros where a power loss left the file shorter. Raises DiskFault."""
        at = life.hard.until
        return self._spool.read(life.ino, at, 0, extra=end - at).ljust(end - at, b"\0")

    def put(self, life: FileLife, soft: bytes) -> None:
        """Log soft bytes in the transaction that makes them hard."""
        self._catalog.put_logged(life.ino, life.hard.until, soft)
        life.logged_bytes += len(soft)
        self._files[life.ino] = life

    def drop(self, life: FileLife) -> None:
        """Its spool file was synced, or nothing refers to anything in it: the rows go with the next commit."""
        if life.logged_bytes:
            self._catalog.drop_logged(life.ino)
            life.logged_bytes = 0
            self._files.pop(life.ino, None)

    def drop_unneeded(self) -> None:
        """Drop what is of empty spool files, so that these can be removed."""
        for life in [life for life in self._files.values() if life.is_empty and not life.dead]:
            self.drop(life)

    def start(self) -> None:
        """Before anything is read: write all rows into the spool. They stay until it is synced.

        Raises:
            DiskFull, DiskFault
        """
        for ino, at, content in self._catalog.logged():
            try:
                life = self._table.life(ino, is_use=False)
            except NotFound:
                continue
            self._spool.write(ino, at, content)
            life.logged_bytes += len(content)
            self._files[ino] = life
