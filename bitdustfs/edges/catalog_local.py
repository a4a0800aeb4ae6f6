"""The catalog's local tables: what only this machine knows of its files, and blocks on their way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import NO_INO, Extent, FragmentName, Hold, Ino, Layer, LocalFile, SupplierNo

_FILE_COLUMNS = "ino, size, mtime_ns, ctime_ns, spool_end, dirty_since_ns, hard_until, summed_until, hard_size"
_FILE = f"SELECT {_FILE_COLUMNS} FROM l_file WHERE ino = ?"
_FILES = f"SELECT {_FILE_COLUMNS} FROM l_file WHERE ino > ? ORDER BY ino LIMIT ?"
_UNSURE_FILES = f"""
    SELECT {_FILE_COLUMNS} FROM l_file
    WHERE summed_until < spool_end OR dirty_since_ns <> 0 AND hard_until < spool_end
    OR spool_end > 0 AND NOT EXISTS (SELECT 1 FROM l_extent WHERE l_extent.ino = l_file.ino AND hold <> 2)
    ORDER BY ino
"""
_PUT_FILE = f"""
    INSERT INTO l_file ({_FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (ino) DO UPDATE SET
    size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
    spool_end = excluded.spool_end, dirty_since_ns = excluded.dirty_since_ns, hard_until = excluded.hard_until,
    summed_until = excluded.summed_until, hard_size = excluded.hard_size
"""
_DROP_FILE = "DELETE FROM l_file WHERE ino = ?"
_EXTENTS = "SELECT start, stop, at, hold FROM l_extent WHERE ino = ? AND layer = ? ORDER BY start"
_PUT_EXTENT = """
    INSERT INTO l_extent (ino, layer, start, stop, at, hold) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (ino, layer, start) DO UPDATE SET stop = excluded.stop, at = excluded.at, hold = excluded.hold
"""
_DROP_EXTENTS = "DELETE FROM l_extent WHERE ino = ? AND layer = ? AND start >= ? AND start < ?"
_SUMS = "SELECT sums FROM l_sum WHERE ino = ? AND row = ?"
_PUT_SUMS = (
    "INSERT INTO l_sum (ino, row, sums) VALUES (?, ?, ?) ON CONFLICT (ino, row) DO UPDATE SET sums = excluded.sums"
)
_DROP_SUMS = "DELETE FROM l_sum WHERE ino = ? AND row >= ? AND row < ?"
_INLINE = "SELECT content, sum FROM l_inline WHERE ino = ?"
_PUT_INLINE = """
    INSERT INTO l_inline (ino, content, sum) VALUES (?, ?, ?)
    ON CONFLICT (ino) DO UPDATE SET content = excluded.content, sum = excluded.sum
"""
_INLINE_BYTES = "SELECT coalesce(sum(length(content)), 0) FROM l_inline"
_DROP_INLINE = "DELETE FROM l_inline WHERE ino = ?"
_OF_FILES = ("l_file", "l_extent", "l_sum", "l_inline")
_DROP_ALL = tuple(f"DELETE FROM {table} WHERE ino BETWEEN ? AND ?" for table in _OF_FILES)
_PUT_UPLOAD = "INSERT INTO l_upload (block_id, place, supplier, name) VALUES (?, ?, ?, ?)"
_DROP_UPLOAD = "DELETE FROM l_upload WHERE block_id = ?"
_UPLOAD = "SELECT place, supplier, name FROM l_upload WHERE block_id = ? ORDER BY place"
_UPLOADS = "SELECT block_id, place, supplier, name FROM l_upload ORDER BY block_id, place"
_LOCAL_VALUE = "SELECT value FROM l_value WHERE key = ?"
_PUT_LOCAL_VALUE = (
    "INSERT INTO l_value (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_HOLDS = {int(hold): hold for hold in Hold}  # to look one up takes a quarter of the time
_ITSELF = -1  # place of the row that stands for the block


class LocalTables(Store):
    """Local files, extents, inline contents, uploads."""

    # -- files -------------------------------------------------------------------------------------------
    def local_file(self, ino: Ino) -> LocalFile | None:
        """What only this machine knows of a file; None: the published inode is the whole truth."""
        rows = self._rows_of(ino, _FILE, (ino,))
        return LocalFile(*rows[0]) if rows else None

    def put_local_file(self, row: LocalFile) -> None:
        """Insert or replace."""
        self._put_gone_of(row.ino)
        times = (row.mtime_ns, row.ctime_ns, row.spool_end, row.dirty_since_ns)
        self._change(_PUT_FILE, (row.ino, row.size, *times, row.hard_until, row.summed_until, row.hard_size))

    def drop_local_file(self, ino: Ino) -> None:
        """Forget it; its extents and inline content are rows of their own."""
        self._change(_DROP_FILE, (ino,))

    def local_files(self, *, after: Ino = NO_INO, limit: int = -1) -> Sequence[LocalFile]:
        """Those with numbers above `after`, in order; at most `limit`, or all."""
        return [LocalFile(*row) for row in self._rows(_FILES, (after, limit))]

    def unsure_files(self) -> Sequence[LocalFile]:
        """Those with spool bytes that have no sums, or with dirty ones that are not hard, or that are not needed."""
        return [LocalFile(*row) for row in self._rows(_UNSURE_FILES)]

    # -- extents -----------------------------------------------------------------------------------------
    def extents(self, ino: Ino, layer: Layer) -> Sequence[Extent]:
        """All extents of a file in one layer, in order."""
        rows = self._rows_of(ino, _EXTENTS, (ino, int(layer)))
        return [Extent(start, stop, at, _HOLDS[hold]) for start, stop, at, hold in rows]

    def put_extents(
        self, ino: Ino, layer: Layer, extents: Sequence[Extent], *, gone: Iterable[tuple[int, int]] = ()
    ) -> None:
        """Drop the rows whose start lies in one of the ranges `gone`, then insert or replace `extents`."""
        self._put_gone_of(ino)
        with self.savepoint():
            for start, end in gone:
                self._change(_DROP_EXTENTS, (ino, int(layer), start, end))
            place = (ino, int(layer))
            self._change_all(_PUT_EXTENT, [place + extent for extent in extents])

    # -- check sums --------------------------------------------------------------------------------------
    def sums(self, ino: Ino, row: int) -> bytes:
        """The sums of 1 MiB of a spool file, as far as they were noted."""
        rows = self._rows_of(ino, _SUMS, (ino, row))
        return rows[0][0] if rows else b""

    def put_sums(self, ino: Ino, row: int, sums: bytes) -> None:
        """Insert or replace."""
        self._put_gone_of(ino)
        self._change(_PUT_SUMS, (ino, row, sums))

    def drop_sums(self, ino: Ino, first: int, end: int) -> None:
        """Forget rows [first, end): their bytes were given back."""
        self._change(_DROP_SUMS, (ino, first, end))

    # -- inline contents ---------------------------------------------------------------------------------
    def inline(self, ino: Ino) -> tuple[bytes, bytes] | None:
        """The whole content of a small file and its sum, if it is kept in the catalog."""
        rows = self._rows_of(ino, _INLINE, (ino,))
        return rows[0] if rows else None

    def put_inline(self, ino: Ino, content: bytes, sum: bytes) -> None:
        """Insert or replace."""
        self._put_gone_of(ino)
        self._change(_PUT_INLINE, (ino, content, sum))

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

    def upload(self, block_id: bytes) -> Sequence[tuple[SupplierNo, FragmentName]] | None:
        """The fragments of one noted block in the order given; None: it is not noted."""
        rows = self._rows(_UPLOAD, (block_id,))
        return [(supplier, name) for place, supplier, name in rows if place != _ITSELF] if rows else None

    def uploads(self) -> Sequence[tuple[bytes, Sequence[tuple[SupplierNo, FragmentName]]]]:
        """All noted blocks with their fragments in the order given."""
        return [
            (block_id, [(supplier, name) for _, place, supplier, name in rows if place != _ITSELF])
            for block_id, rows in groupby(self._rows(_UPLOADS), key=lambda row: bytes(row[0]))
        ]

    # -- values ------------------------------------------------------------------------------------------
    def local_value(self, key: str) -> bytes | None:
        """A named value of this machine."""
        rows = self._rows(_LOCAL_VALUE, (key,))
        return rows[0][0] if rows else None

    def put_local_value(self, key: str, value: bytes) -> None:
        """Insert or replace."""
        self._change(_PUT_LOCAL_VALUE, (key, value))

    def drop_local_rows(self, ino: Ino) -> None:
        """Forget all that only this machine knows of a file."""
        with self.savepoint():
            self._drop_local_rows(ino, ino)

    def _drop_local_rows(self, first: int, last: int) -> None:
        for sql in _DROP_ALL:
            self._change(sql, (first, last))
