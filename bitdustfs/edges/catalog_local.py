"""The catalog's local tables: what only this machine knows of its files, and blocks on their way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import NO_INO, Extent, FragmentName, Hold, Ino, LocalFile, SupplierNo

_FILE_COLUMNS = "ino, size, mtime_ns, ctime_ns, spool_end, dirty_since_ns"
_FILE = f"SELECT {_FILE_COLUMNS} FROM l_file WHERE ino = ?"
_FILES = f"SELECT {_FILE_COLUMNS} FROM l_file WHERE ino > ? ORDER BY ino LIMIT ?"
_PUT_FILE = f"""
    INSERT INTO l_file ({_FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (ino) DO UPDATE SET
    size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
    spool_end = excluded.spool_end, dirty_since_ns = excluded.dirty_since_ns
"""
_DROP_FILE = "DELETE FROM l_file WHERE ino = ?"
_EXTENTS = "SELECT start, stop, at, hold FROM l_extent WHERE ino = ? ORDER BY start"
_PUT_EXTENT = "INSERT INTO l_extent (ino, start, stop, at, hold) VALUES (?, ?, ?, ?, ?)"
_DROP_EXTENTS = "DELETE FROM l_extent WHERE ino = ? AND start >= ? AND start < ?"
_DROP_ALL_EXTENTS = "DELETE FROM l_extent WHERE ino = ?"
_INLINE = "SELECT content FROM l_inline WHERE ino = ?"
_PUT_INLINE = (
    "INSERT INTO l_inline (ino, content) VALUES (?, ?) ON CONFLICT (ino) DO UPDATE SET content = excluded.content"
)
_INLINE_BYTES = "SELECT coalesce(sum(length(content)), 0) FROM l_inline"
_DROP_INLINE = "DELETE FROM l_inline WHERE ino = ?"
_PUT_UPLOAD = "INSERT INTO l_upload (block_id, place, supplier, name) VALUES (?, ?, ?, ?)"
_DROP_UPLOAD = "DELETE FROM l_upload WHERE block_id = ?"
_UPLOADS = "SELECT block_id, place, supplier, name FROM l_upload ORDER BY block_id, place"
_ITSELF = -1  # place of the row that stands for the block


class LocalTables(Store):
    """Local files, extents, inline contents, uploads."""

    # -- files -------------------------------------------------------------------------------------------
    def local_file(self, ino: Ino) -> LocalFile | None:
        """What only this machine knows of a file; None: the published inode is the whole truth."""
        rows = self._rows(_FILE, (ino,))
        return LocalFile(*rows[0]) if rows else None

    def put_local_file(self, row: LocalFile) -> None:
        """Insert or replace."""
        self._change(
            _PUT_FILE, (row.ino, row.size, row.mtime_ns, row.ctime_ns, row.spool_end, row.dirty_since_ns)
        )  # fmt: skip

    def drop_local_file(self, ino: Ino) -> None:
        """Forget it; its extents and inline content are rows of their own."""
        self._change(_DROP_FILE, (ino,))

    def local_files(self, *, after: Ino = NO_INO, limit: int = -1) -> Sequence[LocalFile]:
        """Those with numbers above `after`, in order; at most `limit`, or all."""
        return [LocalFile(*row) for row in self._rows(_FILES, (after, limit))]

    # -- extents -----------------------------------------------------------------------------------------
    def extents(self, ino: Ino) -> Sequence[Extent]:
        """All extents of a file, in order."""
        return [Extent(start, stop, at, Hold(hold)) for start, stop, at, hold in self._rows(_EXTENTS, (ino,))]

    def replace_extents(self, ino: Ino, extents: Iterable[Extent], *, start: int, end: int) -> None:
        """Put `extents` in place of all rows whose start lies in [start, end)."""
        with self.savepoint():
            self._change(_DROP_EXTENTS, (ino, start, end))
            for extent in extents:
                self._change(_PUT_EXTENT, (ino, extent.start, extent.end, extent.at, int(extent.hold)))

    # -- inline contents ---------------------------------------------------------------------------------
    def inline(self, ino: Ino) -> bytes | None:
        """The whole content of a small file, if it is kept in the catalog."""
        rows = self._rows(_INLINE, (ino,))
        return rows[0][0] if rows else None

    def put_inline(self, ino: Ino, content: bytes) -> None:
        """Insert or replace."""
        self._change(_PUT_INLINE, (ino, content))

    def inline_bytes(self) -> int:
        """The sum of all inline contents."""
        total: int = self._rows(_INLINE_BYTES)[0][0]
        return total

    def drop_inline(self, ino: Ino) -> None:
        """Forget it; nothing if there is none."""
        self._change(_DROP_INLINE, (ino,))

    # -- uploads -----------------------------------------------------------------------------------------
    def put_upload(self, block_id: bytes, fragments: Sequence[tuple[SupplierNo, FragmentName]]) -> None:
        """Note, before the first byte leaves, what an unplaced block may leave at suppliers. Replaces."""
        with self.savepoint():
            self._change(_DROP_UPLOAD, (block_id,))
            self._change(_PUT_UPLOAD, (block_id, _ITSELF, 0, b""))
            for place, (supplier, name) in enumerate(fragments):
                self._change(_PUT_UPLOAD, (block_id, place, supplier, name))

    def drop_upload(self, block_id: bytes) -> None:
        """The block was placed, or what it left was released."""
        self._change(_DROP_UPLOAD, (block_id,))

    def uploads(self) -> Sequence[tuple[bytes, Sequence[tuple[SupplierNo, FragmentName]]]]:
        """All noted blocks with their fragments in the order given."""
        return [
            (block_id, [(supplier, name) for _, place, supplier, name in rows if place != _ITSELF])
            for block_id, rows in groupby(self._rows(_UPLOADS), key=lambda row: bytes(row[0]))
        ]

    def _drop_local_rows(self, ino: Ino) -> None:
        self._change(_DROP_FILE, (ino,))
        self._change(_DROP_ALL_EXTENTS, (ino,))
        self._change(_DROP_INLINE, (ino,))
