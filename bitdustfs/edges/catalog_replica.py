"""The catalog's tables about its own way to the suppliers: outbox, deltas, chunks of snapshots, links of heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import BlockNo, DeltaRow, ImageChunk, Ino

_PAGE_ROWS = 1000  # looked at in one step
_OUTBOX_SIZES = "SELECT no, length(changes) FROM l_outbox WHERE no > ? ORDER BY no LIMIT ?"
_OUTBOX = "SELECT no, changes FROM l_outbox WHERE no > ? AND no <= ? ORDER BY no"
_OUTBOX_BYTES = "SELECT coalesce(sum(length(changes)), 0) FROM l_outbox"
_EMPTY_OUTBOX = "DELETE FROM l_outbox"
_NOTE_CHANGE = """
    INSERT INTO l_counter (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_DROP_OUTBOX = "DELETE FROM l_outbox WHERE no <= ?"
_DELTAS = "SELECT first, part, last, block, content_bytes FROM l_delta ORDER BY first, part"
_DELTA_CONTENT = "SELECT content FROM l_delta WHERE first = ? AND part = ?"
_PUT_DELTA = """
    INSERT INTO l_delta (first, part, last, block, content_bytes, content) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (first, part) DO UPDATE SET last = excluded.last, block = excluded.block,
    content_bytes = excluded.content_bytes, content = excluded.content
"""
_DROP_DELTA = "DELETE FROM l_delta WHERE first = ?"
_DROP_PART = "DELETE FROM l_delta WHERE first = ? AND part = ?"
_IMAGE = "SELECT print, block, slot, at, length FROM l_image WHERE print > ? ORDER BY print LIMIT ?"
_PUT_IMAGE = """
    INSERT INTO l_image (print, block, slot, at, length) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (print) DO UPDATE SET block = excluded.block, slot = excluded.slot, at = excluded.at,
    length = excluded.length
"""
_IMAGE_BLOCKS = "SELECT DISTINCT block FROM l_image ORDER BY block DESC"
_DROP_IMAGE = "DELETE FROM l_image WHERE print = ?"
_DROP_IMAGES = "DELETE FROM l_image"
_LINKS = "SELECT link FROM l_link WHERE version > ? AND version < ? ORDER BY version"
_PUT_LINK = (
    "INSERT INTO l_link (version, link) VALUES (?, ?) ON CONFLICT (version) DO UPDATE SET link = excluded.link"
)
_DROP_LINKS = "DELETE FROM l_link WHERE version < ?"


class ReplicaTables(Store):
    """Outbox, deltas, chunks of snapshots, links of heads."""

    # -- the outbox --------------------------------------------------------------------------------------
    @property
    def last_change(self) -> int:
        """The number of the newest committed change of replicated rows; 0: there was none."""
        return self._last_change

    def outbox(self, after: int, most_bytes: int) -> Sequence[tuple[int, bytes]]:
        """(number, change set) of committed changes above `after`, oldest first: at least one, if there is any."""
        sizes = self._rows(_OUTBOX_SIZES, (after, _PAGE_ROWS))
        sums = accumulate(size for _, size in sizes)
        fitting = [no for (no, _), total in zip(sizes, sums, strict=True) if total <= most_bytes]
        if not sizes:
            return []
        return self._rows(_OUTBOX, (after, fitting[-1] if fitting else sizes[0][0]))

    def outbox_bytes(self) -> int:
        """The sum of all change sets in the outbox."""
        total: int = self._rows(_OUTBOX_BYTES)[0][0]
        return total

    def drop_outbox(self, until: int) -> None:
        """Forget the change sets up to this number. Numbers go on."""
        last = min(until, self._last_change)
        with self.savepoint():
            self._change(_DROP_OUTBOX, (last,))
            self._put_local_counter("change", last)

    def note_last_change(self, change: int) -> None:
        """Let this be the number of the newest change: of one that was made elsewhere, and came by a step."""
        self._change(_EMPTY_OUTBOX)
        self._change(_NOTE_CHANGE, ("change", change))

    def changed(self, ino: Ino) -> int:
        """The number of the change that last touched an inode's row, names, xattrs or map, or a later one.

        Returns:
            `last_change` + 1 for what is not committed yet; what it was at the start for what was not touched since;
            0 when all that was touched is forgotten.
        """
        return self._touched.number(ino, next_change=self._last_change + 1)

    def changed_since(self, change: int, most: int) -> Sequence[Ino] | None:
        """The inodes that were touched by later changes, or by the open transaction; None: more than so many, or
        it is not known any more. Inode 0: a fragment of a file is elsewhere now."""
        return self._touched.since(change, most)

    def forget_changed(self, until: int) -> None:
        """Let `changed` be 0 for what was touched by no change above this number."""
        self._touched.forget(until)

    # -- deltas ------------------------------------------------------------------------------------------
    def put_delta(self, row: DeltaRow, content: bytes) -> None:
        """Insert or replace by first change and part."""
        self._change(_PUT_DELTA, (row.first, row.part, row.last, row.block, row.content_bytes, content))

    def deltas(self) -> Sequence[DeltaRow]:
        """All of them, oldest first."""
        return [DeltaRow(*row) for row in self._rows(_DELTAS)]

    def delta_content(self, row: DeltaRow) -> bytes:
        """What is sealed in the block of a delta."""
        content: bytes = self._rows(_DELTA_CONTENT, (row.first, row.part))[0][0]
        return content

    def drop_delta(self, first: int) -> None:
        """Forget the delta that begins with this change, all its parts. Their blocks are rows of their own."""
        self._change(_DROP_DELTA, (first,))

    def drop_delta_part(self, first: int, part: int) -> None:
        """The same of one part of it."""
        self._change(_DROP_PART, (first, part))

    # -- chunks of snapshots -----------------------------------------------------------------------------
    def put_image_chunks(self, rows: Iterable[ImageChunk]) -> None:
        """Insert or replace, by content."""
        with self.savepoint():
            for row in rows:
                self._change(_PUT_IMAGE, (row.print, row.block, row.slot, row.offset, row.length))

    def image_chunks(self, *, after: bytes = b"", limit: int = -1) -> Sequence[ImageChunk]:
        """Those with prints above `after`, in order; at most `limit`, or all."""
        return [ImageChunk(*row) for row in self._rows(_IMAGE, (after, limit))]

    def image_blocks(self) -> Sequence[BlockNo]:
        """The local blocks that these pieces lie in, the one made first first."""
        return [BlockNo(row[0]) for row in self._rows(_IMAGE_BLOCKS)]

    def drop_image_chunks(self, prints: Iterable[bytes] | None = None) -> None:
        """Forget those with these prints, or all."""
        if prints is None:
            self._change(_DROP_IMAGES)
            return
        with self.savepoint():
            for each in prints:
                self._change(_DROP_IMAGE, (each,))

    # -- links of heads ----------------------------------------------------------------------------------
    def put_link(self, version: int, link: bytes) -> None:
        """Insert or replace the link of a head."""
        self._change(_PUT_LINK, (version, link))

    def links(self, after: int, until: int) -> bytes:
        """The links of the versions between `after` and `until`, without these two, one behind the other."""
        return b"".join(link for (link,) in self._rows(_LINKS, (after, until)))

    def drop_links(self, below: int) -> None:
        """Forget the links of versions below this one."""
        self._change(_DROP_LINKS, (below,))
