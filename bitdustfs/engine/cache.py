"""The cache: clean bytes in the spool, which suppliers hold as well. What was fetched is kept, what is let go.

Clean bytes go when writes need room, those of the files first that nobody used for longest, and a few for what is
read next. Those of endangered blocks (engine/endangered) stay, as long as they are not more than half of the spool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf

import trio

from bitdustfs.core.ranges import Piece
from bitdustfs.engine.endangered import needed_chunks
from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.recency import RECENT_FILES
from bitdustfs.engine.room import Room
from bitdustfs.engine.spooled import Spooled
from bitdustfs.errors import DiskFault, DiskFull, NotFound, SpoolDamaged
from bitdustfs.model import CHUNK_BYTES, INLINE_BYTES, NO_INO, Extent, Hold, Ino
from bitdustfs.ports import Catalog, Spool

MAKE_WAY_EVERY_S = 0.1  # (tune) how often reads that find the spool full have it make room for later ones
KEPT_LOOK_S = 5.0  # (tune) until kept copies are looked through again: their blocks may be well held by then
DROP_FILES = 256  # files looked at in one go when clean bytes are dropped
DROP_BYTES = 64 * 1024 * 1024  # (tune) dropped in one go
DROP_EXTENTS = 256  # (tune) of one file looked at in one go: some 5 ms of the loop
_log = logging.getLogger(__name__)


class Cache:
    """The clean bytes of all files.

    Args:
        wake: called when only uploads, or repair, can make room.
    """

    def __init__(
        self,
        catalog: Catalog,
        spool: Spool,
        journal: Journal,
        table: FileTable,
        spooled: Spooled,
        room: Room,
        wake: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._journal = journal
        self._table = table
        self._spooled = spooled
        self._room = room
        self._wake = wake
        self._barren_until = 0.0  # trio time: until then no file has clean bytes that may go
        self._kept_bytes = self._kept_files = 0  # refused since `make_room` began
        self._way_at = 0.0  # trio time before which reads make no room

    def chunk(self, ino: Ino, index: int, length: int) -> bytes | None:
        """The first bytes of a published chunk, if the spool has them all as they were published, and sound."""
        with self._looked_at(ino) as life:
            if life is None or not _has(life, index, length):
                return None
            if life.inline is not None:
                return life.inline[:length]
            start = index * CHUNK_BYTES
            try:
                return b"".join(self._read(life, piece) for piece in life.extents.pieces(start, start + length))
            except (SpoolDamaged, DiskFault):
                return None

    def has_chunk(self, ino: Ino, index: int, length: int) -> bool:
        """Whether the spool has them, as far as that can be said without reading them."""
        with self._looked_at(ino) as life:
            return life is not None and _has(life, index, length)

    def keep(self, life: FileLife, index: int, plaintext: bytes) -> None:
        """Put a fetched chunk into the spool as clean, where nothing newer lies. Never makes a read fail."""
        start = index * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, life.published_size)
        if not plaintext or end <= start or not self._journal.keeps or self._room.is_doomed(life.ino):
            return
        if index == 0 and end == life.published_size <= INLINE_BYTES and not len(life.extents) and not life.dirty:
            if self._room.has(end):
                self._barren_until = 0.0
                life.inline = plaintext[:end].ljust(end, b"\0")
                self._table.save_later(life)
            else:
                self._make_way()
            return
        if not self._room.has(end - start):
            self._make_way()
            return
        for piece in list(life.extents.pieces(start, min(end, life.size))):
            if piece.extent is None:
                content = plaintext[piece.start - start : piece.end - start]
                content = content.ljust(piece.end - piece.start, b"\0")
                try:
                    self._spool.write(life.ino, life.spool_end, content)
                except (DiskFull, DiskFault) as e:  # a cache that cannot grow is no error of the read
                    _log.warning("a fetched chunk could not be kept: %s", e)
                    return
                self._barren_until = 0.0
                life.extents.lay(Extent(piece.start, piece.end, life.spool_end, Hold.CLEAN))
                life.spool_end += len(content)
        self._table.save_later(life)

    async def drop_all(self, turn_bytes: int = DROP_BYTES) -> int:
        """Forget all clean bytes but those of endangered blocks (engine/endangered). Returns how many.

        Args:
            turn_bytes: after so many the loop gets its turn, within a file too.
        """
        self._journal.commit()
        dropped, after = 0, NO_INO
        while True:
            lives, after = self._table.load_some(after, DROP_FILES)
            for life in lives:
                life.opens += 1  # to load a large file anew for each turn takes longer than the turn
            try:
                if sum(len(life.extents) for life in lives) >= DROP_EXTENTS:
                    await trio.lowlevel.checkpoint()  # loading took a turn
                dropped += await self._drop_whole(lives, turn_bytes)
            finally:
                for life in lives:
                    life.opens -= 1
                    self._table.let_go(life)
            await self._room.collect()
            if after == NO_INO:
                return dropped
            await trio.lowlevel.checkpoint()

    async def make_room(self, need_bytes: int) -> int:
        """Forget clean bytes of the files that nobody used for longest, some if there are any. Returns how many.

        Those of endangered blocks are kept, but not more of them than half of the spool: writes must go on.
        """
        if trio.current_time() < self._barren_until:
            return 0
        self._kept_bytes = self._kept_files = 0
        dropped = await self._drop_until_some(need_bytes)
        kept_bytes = self._kept_bytes
        if not dropped and kept_bytes > self._room.kept_most:
            _log.warning("the spool is full of what too few suppliers hold: some of it is let go")
            dropped = await self._drop_until_some(need_bytes, even_needed=True)
        if not dropped:
            self._barren_until = trio.current_time() + KEPT_LOOK_S if kept_bytes else inf
            self._wake()  # only uploads, or repair, can make room now
        return dropped

    def may_have_more(self) -> None:
        """Say that there may be clean bytes now that could go."""
        self._barren_until = 0.0

    # -- private ---------------------------------------------------------------------------------------------

    @contextmanager
    def _looked_at(self, ino: Ino) -> Iterator[FileLife | None]:
        """A file as it is, which is no use of it; None: there is none."""
        is_loaded = self._table.loaded(ino) is not None
        try:
            life = self._table.life(ino, is_use=False)
        except NotFound:
            yield None
            return
        try:
            yield life
        finally:
            if not is_loaded:
                self._table.let_go(life)

    def _read(self, life: FileLife, piece: Piece) -> bytes:
        assert piece.extent is not None
        return self._spooled.read(life, piece.extent.at, piece.end - piece.start)

    async def _drop_whole(self, lives: Iterable[FileLife], turn_bytes: int) -> int:
        """Forget all clean bytes of these files, and give others their turn in between."""
        total = dropped = extents = 0  # the latter two in this turn
        needed = needed_chunks(self._catalog)
        for life in lives:
            start: int | None = 0
            while start is not None:
                if dropped >= turn_bytes or extents >= DROP_EXTENTS:
                    self._journal.commit()
                    await trio.lowlevel.checkpoint()
                    dropped = extents = 0
                    needed = needed_chunks(self._catalog)
                if life.dead:
                    break
                extents += 1 + min(DROP_EXTENTS, len(life.extents))
                let_go, start = life.drop_clean_from(start, turn_bytes - dropped, DROP_EXTENTS, needed)
                total += let_go
                dropped += let_go
                if let_go:
                    self._table.save(life)
        self._journal.commit()
        return total

    async def _drop_until_some(self, need_bytes: int, *, even_needed: bool = False) -> int:
        looked_at = 0
        while (self._table.has_strangers and self._kept_files < RECENT_FILES) or looked_at < self._table.recent:
            looked_at += 0 if self._table.has_strangers else DROP_FILES
            dropped = self._drop_some(need_bytes, even_needed=even_needed)
            if dropped:
                return dropped
            await trio.lowlevel.checkpoint()
        return 0

    def _make_way(self) -> None:
        """Let go of clean bytes for what is read next. Not for each read: many files are looked at."""
        now = trio.current_time()
        if now >= self._way_at:
            self._way_at = now + MAKE_WAY_EVERY_S
            self._drop_some(self._room.step)

    def _drop_some(self, need_bytes: int, *, even_needed: bool = False) -> int:
        """The same, looking at a few files only."""
        return self._drop(self._table.least_used(DROP_FILES), need_bytes, even_needed=even_needed)

    def _drop(self, lives: Iterable[FileLife], need_bytes: int, *, even_needed: bool = False) -> int:
        dropped = 0
        needed = None if even_needed else needed_chunks(self._catalog)
        for life in lives:
            let_go = life.drop_clean(need_bytes - dropped, needed) if dropped < need_bytes else 0
            if let_go:
                self._table.save(life)
                dropped += let_go
            else:
                if needed is not None and dropped < need_bytes and (kept := life.clean_bytes):
                    self._kept_bytes += kept
                    self._kept_files += 1
                    self._table.used(life)  # else it would be looked at again and again
                self._table.let_go(life)
        return dropped


def _has(life: FileLife, index: int, length: int) -> bool:
    """Whether the first bytes of a published chunk are all clean."""
    if life.damaged or life.dead:
        return False
    if life.inline is not None:
        return life.has_clean and index == 0 and len(life.inline) >= length
    pieces = life.extents.pieces(index * CHUNK_BYTES, index * CHUNK_BYTES + length)
    return all(piece.extent is not None and piece.extent.hold is Hold.CLEAN for piece in pieces)
