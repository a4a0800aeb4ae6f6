"""The page image of a catalog at one instant, without its local tables.

The instant is chosen on the loop: a connection of the image's own begins to read there, and goes on to see that
state while the catalog is written to. Copying it takes a worker as long as it takes; until then the write-ahead log
keeps what was written since.

**What it holds.** Every page is where it is in the catalog's file, so that two images differ only where the catalog
was changed between them. The local tables are emptied, not dropped, and free pages are made zeros (but for the few
that list the others): old contents in them would be sent to suppliers for nothing. The copy is in rollback-journal
mode, so that it is whole without a second file. Source: the SQLite file format, "The Freelist".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import apsw

from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.durable import translated
from bitdustfs.errors import CatalogDamaged
from bitdustfs.model import IMAGE_CHUNK_BYTES

_STEP_PAGES = 1024  # copied in one call
_COPY_CACHE_KIB = 2 * 1024
_LOCAL_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'l_*'"
_PAGE_BYTES = struct.Struct(">H")  # at 16 of the file's header
_VERSIONS = 18  # two bytes: 1 for a rollback journal, 2 for a write-ahead log
_FREE = struct.Struct(">2I")  # at 32: first page of the list of free pages, how many free pages there are
_TRUNK = struct.Struct(">2I")  # of a page of that list: the next one, how many free pages it names


class SqliteImage:
    """`ports.Image` of one catalog.

    Args:
        source: reads the state that is copied, and is closed afterwards.
        catalog: path of the catalog, for errors.
        path: where the copy goes; what is there is replaced.
    """

    def __init__(self, source: apsw.Connection, catalog: str, path: Path) -> None:
        self._source: apsw.Connection | None = source
        self._catalog = catalog
        self._path = path
        self._descriptor = -1
        self._chunks = 0

    @property
    def chunks(self) -> int:
        """How many chunks it has; 0 before it was copied."""
        return self._chunks

    def copy(self) -> None:
        """Copy the state. Blocking, for a worker.

        Raises:
            DiskFull, DiskFault, CatalogDamaged. `close` must be called after all of them.
        """
        try:
            self._path.unlink(missing_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._copy_pages()
            os.pwrite(self._descriptor, b"\1\1", _VERSIONS)  # before it is opened, so that no log is made
            self._empty_local_tables()
            for at, length in _free_pages(self._descriptor, self._catalog):
                os.pwrite(self._descriptor, bytes(length), at)
            self._chunks = -(-os.fstat(self._descriptor).st_size // IMAGE_CHUNK_BYTES)
        except OSError as e:
            raise translated(e, self._path) from e

    def chunk(self, index: int) -> bytes:
        """IMAGE_CHUNK_BYTES of the copy; the last one is filled up with zeros. Blocking."""
        try:
            content = os.pread(self._descriptor, IMAGE_CHUNK_BYTES, index * IMAGE_CHUNK_BYTES)
        except OSError as e:
            raise translated(e, self._path) from e
        return content.ljust(IMAGE_CHUNK_BYTES, b"\0")

    def close(self) -> None:
        """Remove the copy. Not while a worker is busy with it."""
        self._end_source()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
        self._descriptor = -1

    def _end_source(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None

    def _copy_pages(self) -> None:
        assert self._source is not None, "an image is copied once"
        target = self._open_copy()
        try:
            with target.backup("main", self._source, "main") as backup:
                while not backup.done:
                    backup.step(_STEP_PAGES)
        except apsw.Error as e:
            raise from_sqlite(e, self._catalog, system_errno=target.system_errno) from e
        finally:
            target.close()
            self._end_source()

    def _empty_local_tables(self) -> None:
        copy = self._open_copy()
        try:
            copy.pragma("secure_delete", 1)
            with copy:
                for (table,) in copy.execute(_LOCAL_TABLES).fetchall():
                    copy.execute(f"DELETE FROM {table}")
        except apsw.Error as e:
            raise from_sqlite(e, self._catalog, system_errno=copy.system_errno) from e
        finally:
            copy.close()

    def _open_copy(self) -> apsw.Connection:
        """Open the copy as a file that nobody will miss."""
        copy = connect(str(self._path), None)
        copy.pragma("journal_mode", "off")
        copy.pragma("synchronous", 0)
        copy.pragma("cache_size", -_COPY_CACHE_KIB)
        return copy


def _free_pages(descriptor: int, path: str) -> Iterator[tuple[int, int]]:
    """The free pages of a database that hold nothing it will ever read: where each begins, and its length."""
    header = os.pread(descriptor, 100, 0)
    (page_bytes,) = _PAGE_BYTES.unpack_from(header, 16)
    trunk, free = _FREE.unpack_from(header, 32)
    while trunk:
        content = os.pread(descriptor, page_bytes, (trunk - 1) * page_bytes)
        trunk, count = _TRUNK.unpack_from(content)
        free -= count + 1
        if free < 0:
            raise CatalogDamaged(path=path, why="its list of free pages is not as it should be")
        for (page,) in struct.iter_unpack(">I", content[_TRUNK.size : _TRUNK.size + 4 * count]):
            yield (page - 1) * page_bytes, page_bytes
