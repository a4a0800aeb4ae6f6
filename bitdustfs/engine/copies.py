"""Copies: a block made again from the chunks that this machine still has, instead of from suppliers.

Sealing is the same each time: the key follows from the block's id, the nonce from the slot, the padding from the key.
So a block whose chunks are all here comes out byte for byte as it was, and nothing is downloaded. Whoever uses it
checks the roots (invariant I10); a copy that is not what was sealed shows there. So does one of a block whose last
chunks nothing names any more, where the padding is as long as they were: nothing that is known tells it before.

Only blocks of files are made so. The blocks of the catalog's own replica are fetched, as from any k suppliers: the
pages of a snapshot are not in the catalog's file any more once it was written to, and to keep a copy of them would
cost this disk the whole snapshot again (223 MiB for a million files), to save, when a supplier is lost, that many
bytes of a download that takes the contents of these files too. Deltas are less than a quarter of a snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from bitdustfs.core import block as blocks
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.files import Files
from bitdustfs.model import BlockRow, ChunkRow
from bitdustfs.ports import Catalog, Crunch


class Copies:
    """The blocks of files, from clean chunks in the spool."""

    def __init__(self, catalog: Catalog, files: Files, crunch: Crunch, secrets: VolumeSecrets) -> None:
        self._catalog = catalog
        self._files = files
        self._crunch = crunch
        self._secrets = secrets

    async def block(self, block: BlockRow) -> memoryview | None:
        """A block as it was coded; None: something of it is not here."""
        rows = {row.slot: row for row in self._catalog.chunks_of_block(block.block)}
        ordered = [rows[slot] for slot in sorted(rows)]
        if not _is_whole(block, ordered):
            return None
        plaintexts = []
        for row in ordered:
            plaintext = self.plaintext(row)
            if plaintext is None:
                return None
            plaintexts.append(plaintext)
            await trio.lowlevel.checkpoint()
        seal = self._secrets.seal_of(block.block_id, block.scope, block.suite)

        def build() -> memoryview:
            return blocks.build(seal, plaintexts)[0]

        return await self._crunch.run(build)

    async def is_genuine(self, block: BlockRow) -> bool:
        """Whether what is here of a block is as it was written: then a copy lacks what nothing names any more."""
        for row in self._catalog.chunks_of_block(block.block):
            plaintext = self.plaintext(row)
            if plaintext is not None and self._secrets.fingerprint(plaintext) != row.fingerprint:
                return False
            await trio.lowlevel.checkpoint()
        return True

    def is_here(self, block: BlockRow) -> bool:
        """Whether `block` would find all of a block here, as far as that can be said without reading it."""
        rows = {row.slot: row for row in self._catalog.chunks_of_block(block.block)} if block.block > 0 else {}
        return _is_whole(block, [rows[slot] for slot in sorted(rows)]) and all(
            any(
                self._files.cache.has_chunk(ino, index, row.length)
                for ino, index in self._catalog.places_of(row.chunk)
            )
            for row in rows.values()
        )

    def plaintext(self, row: ChunkRow) -> bytes | None:
        """A chunk that is here, sound as far as sums of the spool tell; None: it is not."""
        for ino, index in self._catalog.places_of(row.chunk):
            plaintext = self._files.cache.chunk(ino, index, row.length)
            if plaintext is not None:
                return plaintext
        return None


def _is_whole(block: BlockRow, rows: Sequence[ChunkRow]) -> bool:
    """Whether these are all chunks that were sealed into a block: of some, nothing may be known any more."""
    if not rows or [row.slot for row in rows] != list(range(len(rows))):
        return False
    places, length = blocks.layout([row.length for row in rows])
    return length == block.length and all(place.offset == row.offset for place, row in zip(places, rows, strict=True))
