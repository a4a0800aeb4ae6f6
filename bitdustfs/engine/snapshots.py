"""Snapshots: the whole catalog at one change, as image chunks at suppliers and a manifest that names them.

    commit, image (the cut) -> copy, in a worker -> chunks that no placed block has -> blocks -> manifest -> one
    transaction: this is the base now, and what it holds needs no delta any more

The cut costs the loop one read transaction; everything else is done beside the mount. Image chunks that were placed
are noted at once, so that a snapshot that was interrupted is not sent twice. A block of which few chunks are still
needed is not used again: its chunks are sent anew, and it is released with the others that no head names.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from blake3 import blake3

from bitdustfs.core import block as blocks
from bitdustfs.core import replica, snapshot
from bitdustfs.core.block import Placed
from bitdustfs.core.replica import Manifest, ManifestNote, ObjectRef
from bitdustfs.core.seal import Kind
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.objects import Objects
from bitdustfs.errors import NotFound
from bitdustfs.model import CHUNK_BYTES, BlockNo, ImageChunk
from bitdustfs.ports import Catalog, Crunch, Image

SLICE = 64  # chunks that a worker reads before the loop hears of them: 1 MiB
KEEP_SHARE = 4  # a block is used again if at least this part of its chunks is needed
PAGE = 256  # rows of image chunks looked at, or written, in one turn of the loop
_NOTE = "manifest"  # in the catalog: what is placed
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draft:
    """A snapshot in the making."""

    image: Image
    change: int
    copied: bool  # what is sent of it
    prints: list[bytes] = field(default_factory=list)  # of all chunks, in order
    known: dict[bytes, ImageChunk] = field(default_factory=dict)  # where those lie that need not be sent


class Snapshots:
    """Take snapshots, and know the newest.

    Args:
        image: makes an image of the catalog as it was committed last, at once.
    """

    def __init__(
        self, catalog: Catalog, journal: Journal, objects: Objects, crunch: Crunch, image: Callable[[], Image]
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._objects = objects
        self._crunch = crunch
        self._image = image
        self.cut: int | None = None  # the change that a snapshot in the making will hold; no delta goes across it
        self.newest = kept_note(catalog)

    async def take(self, *, copied: bool = False) -> ManifestNote:
        """Bring a snapshot of the catalog as it is now to suppliers.

        Args:
            copied: what is sent of it is not cut into pieces.
        Raises:
            Unavailable: too few suppliers take it. DiskFull, DiskFault: no room for the copy.
        """
        self._journal.commit()  # no await until the image is there: this is the cut
        draft = _Draft(self._image(), self._catalog.last_change, copied)
        self.cut = draft.change
        try:
            await self._crunch.run(draft.image.copy)
            await self._fingerprint(draft)
            await self._find_known(draft)
            await self._send_chunks(draft)
            note = await self._place_manifest(draft)
        finally:
            self.cut = None
            with trio.CancelScope(shield=True):
                await self._crunch.run(draft.image.close)  # to unlink a large file takes long
        await self._forget_stale(note)
        _log.info("a snapshot of %d chunks holds the catalog up to change %d", len(draft.prints), draft.change)
        return note

    # -- private ---------------------------------------------------------------------------------------------

    async def _fingerprint(self, draft: _Draft) -> None:
        image = draft.image

        def prints(first: int, end: int) -> list[bytes]:
            return [blake3(image.chunk(index)).digest() for index in range(first, end)]

        for first in range(0, image.chunks, SLICE):
            draft.prints += await self._crunch.run(prints, first, min(first + SLICE, image.chunks))

    async def _find_known(self, draft: _Draft) -> None:
        """Find the chunks that lie in blocks worth keeping."""
        wanted: frozenset[bytes] = await self._crunch.run(frozenset, draft.prints)
        found: dict[bytes, ImageChunk] = {}
        needed: Counter[BlockNo] = Counter()

        def look(rows: Sequence[ImageChunk]) -> None:
            for row in rows:
                if row.print in wanted:
                    found[row.print] = row
                    needed[row.block] += row.length

        await self._each_page(look)
        kept: set[BlockNo] = set()
        for block, length in needed.items():
            await trio.lowlevel.checkpoint()
            if self._is_worth_keeping(block, length):
                kept.add(block)
        draft.known = await self._crunch.run(snapshot.lying_in, found, kept)

    async def _each_page(self, look: Callable[[Sequence[ImageChunk]], None]) -> None:
        """Show all noted image chunks, a page in each turn of the loop."""
        rows = self._catalog.image_chunks(limit=PAGE)
        while rows:
            look(rows)
            await trio.lowlevel.checkpoint()
            rows = self._catalog.image_chunks(after=rows[-1].print, limit=PAGE)

    def _is_worth_keeping(self, block: BlockNo, needed_bytes: int) -> bool:
        row = self._catalog.block(block)
        return row is not None and needed_bytes * KEEP_SHARE >= row.length and self._is_there(block)

    def _is_there(self, block: BlockNo) -> bool:
        try:
            return self._objects.are_well_held([block])
        except NotFound:
            return False

    async def _send_chunks(self, draft: _Draft) -> None:
        missing = await self._crunch.run(snapshot.to_send, draft.prints, draft.known)
        image = draft.image

        def squeezed(some: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, bytes]]:
            return [(print_, replica.compress_chunk(image.chunk(index))) for print_, index in some]

        waiting, lengths = list[tuple[bytes, bytes]](), list[int]()
        for at in range(0, len(missing), SLICE):
            for each in await self._crunch.run(squeezed, missing[at : at + SLICE]):
                if not blocks.fits(lengths, len(each[1])):
                    await self._send_block(draft, waiting)
                    waiting, lengths = [], []
                waiting.append(each)
                lengths.append(len(each[1]))
        if waiting:
            await self._send_block(draft, waiting)

    async def _send_block(self, draft: _Draft, chunks: Sequence[tuple[bytes, bytes]]) -> None:
        """Send a block of chunks, and note where each lies. One that was not noted is sent again, if need be."""
        rows: list[ImageChunk] = []

        def record(block: BlockNo, places: tuple[Placed, ...]) -> None:
            for (print_, _), place in zip(chunks, places, strict=True):
                rows.append(ImageChunk(print_, block, place.slot, place.offset, place.length))

        await self._objects.place(Kind.IMAGE, [piece for _, piece in chunks], record, copied=draft.copied)
        for at in range(0, len(rows), PAGE):
            with self._journal.operation():
                self._catalog.put_image_chunks(rows[at : at + PAGE])
            await trio.lowlevel.checkpoint()
        draft.known |= {row.print: row for row in rows}

    async def _place_manifest(self, draft: _Draft) -> ManifestNote:
        layout = await self._crunch.run(snapshot.layout, draft.prints, draft.known)
        references: list[ObjectRef] = []
        for block, needed_bytes in layout.blocks:
            references.append(self._objects.reference(block, needed_bytes))
            await trio.lowlevel.checkpoint()
        manifest = Manifest(replica.VERSION, draft.change, layout.order, tuple(references))
        content = await self._crunch.run(replica.encode_manifest, manifest)
        parts: list[tuple[BlockNo, int]] = []
        note: ManifestNote | None = None
        step = 12 * CHUNK_BYTES
        for at in range(0, len(content), step):
            part = content[at : at + step]
            is_last = at + step >= len(content)

            def record(
                block: BlockNo, _places: tuple[Placed, ...], size: int = len(part), last: bool = is_last
            ) -> None:
                nonlocal note
                parts.append((block, size))
                if last:
                    used = tuple(block for block, _ in layout.blocks)
                    image_bytes = sum(needed_bytes for _, needed_bytes in layout.blocks)
                    note = ManifestNote(draft.change, tuple(parts), used, image_bytes)
                    self._note(note)

            await self._objects.place(Kind.MANIFEST, replica.cut(part), record, copied=draft.copied)
        assert note is not None
        return note

    def _note(self, note: ManifestNote) -> None:
        """This is the base now. In the operation that records its manifest."""
        keep_note(self._catalog, note)
        self._catalog.drop_outbox(note.change)
        for delta in self._catalog.deltas():
            if delta.last <= note.change:
                self._catalog.drop_delta(delta.first)
        self._journal.afterwards(lambda: self._take_over(note))

    def _take_over(self, note: ManifestNote) -> None:
        self.newest = note

    async def _forget_stale(self, note: ManifestNote) -> None:
        """Forget the chunks of blocks that the manifest does not use."""
        used = frozenset(note.image_blocks)

        def look(rows: Sequence[ImageChunk]) -> None:
            stale = [row.print for row in rows if row.block not in used]
            if stale:
                with self._journal.operation():
                    self._catalog.drop_image_chunks(stale)

        await self._each_page(look)


def kept_note(catalog: Catalog) -> ManifestNote | None:
    """What a catalog notes of the newest placed manifest."""
    raw = catalog.local_value(_NOTE)
    return replica.decode_note(raw) if raw is not None else None


def keep_note(catalog: Catalog, note: ManifestNote) -> None:
    """Note the newest placed manifest."""
    catalog.put_local_value(_NOTE, replica.encode_note(note))
