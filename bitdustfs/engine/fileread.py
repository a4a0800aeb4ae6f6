"""Reading the live content of a file: what the spool holds, zeros where nothing was published, and the rest fetched.

What is put together belongs to one moment: if the file was changed while chunks were fetched, it is looked at anew.
Who reads a file in sequence has what comes next fetched ahead of him.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from bitdustfs.core.ranges import Piece, chunk_count, chunk_parts
from bitdustfs.engine.cache import Cache
from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.spooled import Spooled
from bitdustfs.errors import DiskFault, SpoolDamaged
from bitdustfs.model import BLOCK_CHUNKS, CHUNK_BYTES, Hold, Ino

_log = logging.getLogger(__name__)


class Fetch(Protocol):
    """Where published chunks come from when the spool does not hold them: the reader."""

    async def chunk(self, ino: Ino, index: int) -> bytes:
        """The plaintext of a published chunk, shorter than its span if it ends in zeros; b"" for a hole."""
        ...

    def ahead(self, ino: Ino, indexes: Sequence[int], enough: int = 0) -> int:
        """Start to fetch chunks that will probably be read soon; see `Reader.ahead`."""
        ...

    @property
    def ahead_chunks(self) -> int:
        """How many chunks to fetch ahead of who reads a file in sequence."""
        ...


class FileReader:
    """Read files at any offset."""

    def __init__(self, table: FileTable, spooled: Spooled, cache: Cache, fetch: Fetch) -> None:
        self._table = table
        self._spooled = spooled
        self._cache = cache
        self._fetch = fetch

    def read_here(self, ino: Ino, offset: int, length: int) -> bytes | None:
        """`read`, if nothing is to be fetched for it; else None. Raises SpoolDamaged, DiskFault."""
        life = self._table.life(ino)
        end = min(life.size, offset + length)
        if offset >= end:
            return b""
        if life.damaged:
            raise SpoolDamaged(ino=ino)
        if life.inline is not None:
            return life.inline[offset:end]
        pieces = list(life.extents.pieces(offset, end))
        if any(piece.extent is None and piece.start < life.published_size for piece in pieces):
            return None
        self._follow(life, offset, end)
        return self._assemble(life, pieces, {})

    async def read(self, ino: Ino, offset: int, length: int) -> bytes:
        """Read up to `length` bytes. Raises Unavailable or its kin, BlockLost, ChunkMissing, DiskFault."""
        got: dict[int, bytes] = {}
        version, followed = -1, False
        while True:
            # no await from here to the return: what is put together belongs to one moment
            life = self._table.life(ino)
            end = min(life.size, offset + length)
            if offset >= end:
                return b""
            if life.damaged:
                raise SpoolDamaged(ino=ino)
            if life.inline is not None:
                return life.inline[offset:end]
            if version != life.version:
                got, version = {}, life.version
            pieces = list(life.extents.pieces(offset, end))
            missing = self._missing(life, pieces, got)
            if not followed:
                self._follow(life, offset, end)
                followed = True
            if not missing:
                content = self._assemble(life, pieces, got)
                if content is None:
                    continue  # a clean copy is damaged: suppliers are asked
                for index, chunk in got.items():
                    self._cache.keep(life, index, chunk)
                return content
            if len(missing) > 1:
                self._fetch.ahead(ino, missing)
            for index in missing:
                got[index] = await self._fetch.chunk(ino, index)

    # -- private ---------------------------------------------------------------------------------------------

    def _missing(self, life: FileLife, pieces: Sequence[Piece], got: dict[int, bytes]) -> list[int]:
        """Indexes of published chunks that are needed and not at hand."""
        missing: dict[int, None] = {}
        for piece in pieces:
            if piece.extent is None and piece.start < life.published_size:
                stop = min(piece.end, life.published_size)
                for part in chunk_parts(piece.start, stop - piece.start):
                    if part.index not in got:
                        missing[part.index] = None
        return list(missing)

    def _assemble(self, life: FileLife, pieces: Sequence[Piece], got: dict[int, bytes]) -> bytes | None:
        """Put a read together. None: a clean copy turned out to be damaged, and was let go."""
        out = []
        for piece in pieces:
            length = piece.end - piece.start
            if piece.extent is None:
                for part in chunk_parts(piece.start, length):
                    chunk = got.get(part.index, b"")
                    out.append(chunk[part.start : part.end].ljust(part.end - part.start, b"\0"))
            elif piece.extent.hold is Hold.ZERO:
                out.append(bytes(length))
            else:
                try:
                    out.append(self._spooled.read(life, piece.extent.at, length))
                except (SpoolDamaged, DiskFault):
                    if piece.extent.hold is Hold.DIRTY:
                        raise
                    _log.warning("inode %d: a local copy is damaged; it is fetched again", life.ino)
                    life.drop_regions(life.extents.cut(piece.start, piece.end))
                    self._table.save(life)
                    return None
        return out[0] if len(out) == 1 else b"".join(out)

    def _follow(self, life: FileLife, offset: int, end: int) -> None:
        """See whether the file is being read in sequence; if so, fetch ahead of the reader."""
        if offset != life.next_offset:
            life.next_offset, life.run_bytes = end, 0
            return
        life.next_offset = end
        life.run_bytes += end - offset
        # The kernel asks for one chunk's worth also when somebody only looks at the beginning, as file managers do.
        window = (life.run_bytes // CHUNK_BYTES - 1) * 4
        if window <= 0 or life.version == 0:
            return
        window = min(window, self._fetch.ahead_chunks)
        first, chunks = (end - 1) // CHUNK_BYTES + 1, chunk_count(life.published_size)
        enough = min(first + window, chunks)
        last = min(enough + BLOCK_CHUNKS, chunks) if window >= BLOCK_CHUNKS else enough
        due = first + (window if window >= BLOCK_CHUNKS else window // 2)  # a whole block is worth a request at once
        if first < last and (life.ahead_until < due or life.ahead_until > last):
            wanted = [
                i
                for i in range(first, last)
                if any(p.extent is None for p in life.extents.pieces(i * CHUNK_BYTES, i * CHUNK_BYTES + 1))
            ]
            life.ahead_until = self._fetch.ahead(life.ino, wanted, enough) if wanted else enough
