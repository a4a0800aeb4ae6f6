"""Files: the live content of regular files, between the kernel and the suppliers.

A write goes into the spool and the file's extents, never to a supplier. A read takes what the spool holds (by the
extents, never by holes in spool files), zeros where nothing was published, and fetches the rest. The spool file of
an inode is written only at its end: old bytes stay until the commit that makes them unneeded is durable, so after a
crash the last commit is the whole truth. A file of up to 16 KiB whose content is known whole is kept *inline*, in
the catalog, and needs no spool file.

`freeze` takes the version that the writer uploads; `publish` makes it the file's published one. Between them the
file may change freely: what was frozen is pinned in the spool.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

import trio

from bitdustfs.core.health import block_state, worst
from bitdustfs.core.ranges import Piece, Region, chunk_count, chunk_parts, map_runs
from bitdustfs.engine.endangered import needed_chunks
from bitdustfs.engine.filestate import FileLife, Frozen, freeze
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.hardener import Hardener
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.recency import RECENT_FILES
from bitdustfs.engine.room import Room
from bitdustfs.engine.spooled import Spooled
from bitdustfs.errors import DiskFault, DiskFull, FileError, NotFound, SpoolDamaged
from bitdustfs.model import (
    CHUNK_BYTES,
    INLINE_BYTES,
    NO_INO,
    ChunkNo,
    Extent,
    FileState,
    Hold,
    Ino,
    Inode,
)
from bitdustfs.ports import Catalog, Spool, Wall

MAX_FILE_BYTES = 1 << 44  # 16 TiB: keeps chunk indexes and offsets far from every integer limit
BUSY_S = 0.05  # (tune) a write this short ago means that more are coming
COLLECT_EVERY_S = 5.0  # how often unneeded spool bytes are given back
READ_AHEAD_CHUNKS = 32  # 8 MiB: two blocks, so that one is fetched while one is read
MAKE_WAY_EVERY_S = 0.1  # (tune) how often reads that find the spool full have it make room for later ones
KEPT_LOOK_S = 5.0  # (tune) until kept copies are looked through again: their blocks may be well held by then
DROP_FILES = 256  # files looked at in one go when clean bytes are dropped
_FOREVER = 1 << 62
_log = logging.getLogger(__name__)


class Fetch(Protocol):
    """Where published chunks come from when the spool does not hold them: the reader."""

    async def chunk(self, ino: Ino, index: int) -> bytes:
        """The plaintext of a published chunk, shorter than its span if it ends in zeros; b"" for a hole."""
        ...

    def ahead(self, ino: Ino, indexes: Iterable[int]) -> None:
        """Start to fetch chunks that will probably be read soon."""
        ...


class Files:
    """The live content of all regular files of a volume."""

    def __init__(
        self, catalog: Catalog, spool: Spool, journal: Journal, wall: Wall, fetch: Fetch, *, spool_limit: int
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._journal = journal
        self._wall = wall
        self._fetch = fetch
        self._written_at = -BUSY_S
        self._table = FileTable(catalog, journal)
        self._barren_until = 0.0  # trio time: until then no file has clean bytes that may go
        self._kept_bytes = self._kept_files = 0  # refused since `_make_room` began
        self._way_at = 0.0  # trio time before which reads make no room
        self._spooled = Spooled(catalog, spool)
        self._hardener = Hardener(catalog, journal, spool, self._table, self._spooled)
        self._room = Room(spool, self._spooled, journal, self._table, spool_limit)
        self.changed = trio.Event()  # set when there may be work for the writer
        self.out_of_quota: Callable[[], bool] = lambda: False  # uploads wait for more room at suppliers
        self.on_published: Callable[[Ino], None] = lambda ino: None  # in the operation that publishes it
        self.is_unsure: Callable[[], bool] = lambda: False  # whether suppliers still hold what they took
        self.is_safe: Callable[[Ino], bool] = lambda ino: False  # of a placed file: so is the catalog that names it

    # -- what the tree asks ------------------------------------------------------------------------------

    def attributes(self, ino: Ino) -> Inode:
        """The inode with its live size and times. Raises NotFound."""
        inode = self._catalog.inode(ino)
        if inode is None:
            raise NotFound(what=f"inode {ino} does not exist")
        return self.as_it_lives(inode)

    def as_it_lives(self, inode: Inode) -> Inode:
        """The catalog's inode with its live size and times."""
        life = self._table.loaded(inode.ino)
        if life is None:
            return inode
        ctime_ns = max(inode.ctime_ns, life.ctime_ns)
        return replace(inode, size=life.size, mtime_ns=life.mtime_ns, ctime_ns=ctime_ns)

    def created(self, inode: Inode) -> None:
        """Take on a new, empty, unborn file. Called in the operation that makes it."""
        life = FileLife(
            ino=inode.ino, size=0, mtime_ns=inode.mtime_ns, ctime_ns=inode.ctime_ns, inline=b"", version=0
        )

        def take_on() -> None:
            self._table.add(life)
            self._changed(life)

        self._journal.afterwards(take_on)

    def open(self, ino: Ino) -> None:
        self._table.life(ino).opens += 1

    def close(self, ino: Ino) -> None:
        life = self._table.loaded(ino)
        if life is not None:
            life.opens -= 1
            self.changed.set()
            self._table.let_go(life)

    def dropped(self, ino: Ino) -> None:
        """Forget a file that has no name and is not open. Called in the operation that drops its inode."""
        stored = self._table.stored_inline(ino)

        def forget() -> None:
            self._table.drop(ino, stored)
            self._room.doom(ino)

        self._journal.afterwards(forget)

    def touch(self, ino: Ino, *, mtime_ns: int | None, ctime_ns: int) -> None:
        """Set times that the user gave. They belong to the next version; of a clean file, to this one."""
        life = self._table.life(ino)
        life.ctime_ns = max(life.ctime_ns, ctime_ns)
        if mtime_ns is not None:
            life.mtime_ns = mtime_ns
            if not life.dirty:
                inode = self._catalog.inode(ino)
                assert inode is not None
                self._catalog.put_inode(replace(inode, mtime_ns=mtime_ns))
        self._table.save(life)

    def state(self, ino: Ino) -> FileState:
        """How safe a file is now."""
        life = self._table.loaded(ino)
        if life is not None and life.dirty:
            return FileState.LOCAL
        states = []
        for number in self._catalog.blocks_of(ino):
            block = self._catalog.block(number)
            held = self._catalog.held(number)
            states.append(block_state(block.code, held, local_copy=False) if block else FileState.LOST)
        found = worst(states)
        if self.is_unsure() and found is FileState.PLACED:
            return FileState.DEGRADED
        if found is FileState.PLACED and self.is_safe(ino):
            return FileState.SAFE
        return FileState.LOCAL if found is FileState.LOST and self.is_whole_here(ino) else found

    def is_whole_here(self, ino: Ino) -> bool:
        """Whether every byte of a file is in the spool."""
        life = self._table.life(ino)
        whole = life.inline is not None or all(p.extent is not None for p in life.extents.pieces(0, life.size))
        self._table.let_go(life)
        return whole

    def dirty_bytes(self, ino: Ino) -> int:
        """Bytes of a file that exist only here."""
        life = self._table.loaded(ino)
        return life.dirty_bytes if life is not None else 0

    def unpublished_growth(self) -> int:
        """By how many bytes the live files are larger than the published ones."""
        return sum(life.size - life.published_size for life in self._table if life.dirty)

    # -- content -------------------------------------------------------------------------------------------

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
                return content
            if len(missing) > 1:
                self._fetch.ahead(ino, missing)
            for index in missing:
                got[index] = await self._fetch.chunk(ino, index)
            if self._table.loaded(ino) is life and life.version == version:
                for index in missing:
                    self._keep(life, index, got[index])

    async def write(self, ino: Ino, offset: int, content: bytes) -> int:
        """Write at any offset; never waits for a supplier. Raises SpoolFull, DiskFull, DiskFault."""
        end = offset + len(content)
        if end > MAX_FILE_BYTES:
            raise FileError(errno=errno.EFBIG, what=f"a file holds at most {MAX_FILE_BYTES} bytes")
        if not content:
            return 0
        await self._room.wait_for(len(content), drop=self._make_room, out_of_quota=self.out_of_quota)
        # no await from here on: bytes, extents and size change together
        self._journal.admit()
        life = self._table.life(ino)
        if life.damaged:
            raise SpoolDamaged(ino=ino)
        now = self._wall.now_ns()
        if life.inline is not None and end <= INLINE_BYTES:
            old = life.inline
            head = old[:offset].ljust(offset, b"\0")
            life.inline = head + bytes(content) + old[end:]
        else:
            self._spill(life)
            self._lay(life, offset, content)
        life.size = max(life.size, end)
        life.mtime_ns = life.ctime_ns = now
        self._written_at = trio.current_time()
        life.modified(offset, end)
        self._changed(life)
        return len(content)

    async def truncate(self, ino: Ino, size: int) -> None:
        """Set the size; what is added reads as zeros and costs nothing."""
        if size > MAX_FILE_BYTES:
            raise FileError(errno=errno.EFBIG, what=f"a file holds at most {MAX_FILE_BYTES} bytes")
        await trio.lowlevel.checkpoint()
        self._journal.admit()
        life = self._table.life(ino)
        if life.damaged and size:
            raise SpoolDamaged(ino=ino)
        now = self._wall.now_ns()
        life.mtime_ns = life.ctime_ns = now
        old_size = life.size
        if size == 0:
            life.drop_regions(life.extents.cut(0, _FOREVER))
            life.inline, life.damaged = b"", False
        elif life.inline is not None and size <= INLINE_BYTES:
            life.inline = life.inline[:size].ljust(size, b"\0")
        else:
            self._spill(life)
            if size < old_size:
                life.drop_regions(life.extents.cut(size, _FOREVER))
                life.extents.lay(Extent(size, max(size, life.base_size), 0, Hold.ZERO))
        life.drop_regions(life.hard.truncated(old_size, size, life.change + 1))
        life.size = size
        life.modified(min(size, old_size), max(size, old_size))
        self._changed(life)

    async def fsync(self, ino: Ino) -> None:
        """Make the file's bytes, size and names survive a power loss. Raises DiskFull, DiskFault."""
        await self.settle(ino)
        await self._journal.durable()

    async def settle(self, ino: Ino) -> None:
        """Make the file's bytes survive a power loss, so that a name committed later never shows less."""
        await self._hardener.settle(ino)

    async def settle_all(self) -> None:
        """The same for all files, as far as the disk does it. The caller sets the deadline."""
        await self._hardener.settle_all()

    async def keep_hard(self) -> None:
        """Do it in the background for what is dirty for long."""
        await self._hardener.run()

    def spooled(self, life: FileLife, piece: Piece) -> bytes:
        """The bytes of a piece that the spool has, checked. Raises SpoolDamaged, DiskFault."""
        assert piece.extent is not None and piece.extent.hold is not Hold.ZERO
        return self._spooled.read(life, piece.extent.at, piece.end - piece.start)

    def clean_chunk(self, ino: Ino, index: int, length: int) -> bytes | None:
        """The first bytes of a published chunk, if the spool has them all as they were published, and sound."""
        start, known = index * CHUNK_BYTES, self._table.loaded(ino) is not None
        try:
            life = self._table.life(ino, is_use=False)
        except NotFound:
            return None
        try:
            if life.damaged or life.dead:
                return None
            if life.inline is not None:
                return life.inline[:length] if life.has_clean and index == 0 and len(life.inline) >= length else None
            pieces = list(life.extents.pieces(start, start + length))
            if any(piece.extent is None or piece.extent.hold is not Hold.CLEAN for piece in pieces):
                return None
            return b"".join(self.spooled(life, piece) for piece in pieces)
        except (SpoolDamaged, DiskFault):
            return None
        finally:
            if not known:
                self._table.let_go(life)

    def has_clean_chunk(self, ino: Ino, index: int, length: int) -> bool:
        """Whether the spool has them, as far as that can be said without reading them."""
        start, known = index * CHUNK_BYTES, self._table.loaded(ino) is not None
        try:
            life = self._table.life(ino, is_use=False)
        except NotFound:
            return False
        try:
            if life.damaged or life.dead:
                return False
            if life.inline is not None:
                return life.has_clean and index == 0 and len(life.inline) >= length
            pieces = life.extents.pieces(start, start + length)
            return all(piece.extent is not None and piece.extent.hold is Hold.CLEAN for piece in pieces)
        finally:
            if not known:
                self._table.let_go(life)

    def has_room(self, length: int) -> bool:
        """A write of so many bytes does not have to wait."""
        return self._room.has(length)

    def is_pressed(self) -> bool:
        """A write waits until something that is dirty now was published."""
        return self._room.waiting > 0

    def is_busy(self) -> bool:
        """Somebody is writing right now, and the spool has room for much more."""
        return trio.current_time() - self._written_at < BUSY_S and self._room.is_ample()

    # -- versions: what the writer asks ----------------------------------------------------------------------

    def dirty_lives(self) -> Sequence[FileLife]:
        """All files with something unpublished."""
        return [life for life in self._table if life.dirty]

    def dirty_totals(self) -> tuple[int, int]:
        """(files, bytes) that exist only here."""
        lives = self.dirty_lives()
        return len(lives), sum(life.dirty_bytes for life in lives)

    def freeze(self, life: FileLife) -> Frozen:
        """Take the file's version of this moment; the spool keeps it until `publish` or `thaw`."""
        inode = self._catalog.inode(life.ino)
        assert inode is not None
        return freeze(life, inode.code)

    def thaw(self, frozen: Frozen) -> None:
        """Give a version up: the file stays dirty."""
        frozen.life.frozen = None

    def publish(self, frozen: Frozen, refs: dict[int, ChunkNo]) -> bool:
        """Make a frozen version the published one, in one operation. False if the file is gone.

        Args:
            refs: chunk index -> placed chunk or HOLE, for exactly the chunks of `frozen`.
        """
        life = frozen.life
        inode = self._catalog.inode(life.ino)
        if life.dead or inode is None:
            return False
        times = life if life.change == frozen.change else frozen  # touched, but not changed: the times are of now
        with self._journal.operation():
            self._put_map(frozen, refs)
            self._catalog.put_inode(
                replace(
                    inode,
                    size=frozen.size,
                    mtime_ns=times.mtime_ns,
                    ctime_ns=max(inode.ctime_ns, times.ctime_ns),
                    version=inode.version + 1,
                )
            )
            self.on_published(life.ino)
        life.frozen = None
        life.version = inode.version + 1
        life.published_size = frozen.size
        life.absorb(frozen)
        self._barren_until = 0.0
        self._table.save(life)
        self._room.freed()
        self._table.let_go(life)
        return True

    # -- the cache ---------------------------------------------------------------------------------------------

    async def drop_clean(self) -> int:
        """Forget all clean bytes but those of endangered blocks (engine/endangered). Returns how many."""
        self._journal.commit()
        dropped, after = 0, NO_INO
        while True:
            lives, after = self._table.load_some(after, DROP_FILES)
            dropped += self._drop(lives, _FOREVER)
            self._journal.commit()
            await self._room.collect()
            if after == NO_INO:
                return dropped
            await trio.lowlevel.checkpoint()

    async def _make_room(self, need_bytes: int) -> int:
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
            self.changed.set()  # only uploads, or repair, can make room now
        return dropped

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

    async def collect(self) -> None:
        """Give spool space back that no durable commit needs any more."""
        await self._room.collect()

    async def run(self) -> None:
        """Collect from time to time, and at once when a write waits for room."""
        while True:
            await trio.sleep(COLLECT_EVERY_S)
            await self._room.collect()

    def start(self, boot: bytes) -> int:
        """Before anything is read: see to bytes that a crash may have taken. The caller makes it durable.

        Args:
            boot: which boot of the machine this is; b"" if that cannot be told.
        Returns:
            How many files lost changes that nobody had synced.
        """
        return self._hardener.start(boot)

    def sweep(self) -> int:
        """At start, after a commit: remove spool files that no inode knows or uses. Returns how many."""
        known = {row.ino for row in self._catalog.local_files() if row.spool_end}
        orphans = [ino for ino in self._spool.inos() if ino not in known]
        for ino in orphans:
            self._spool.remove(ino)
        return len(orphans)

    # -- private ---------------------------------------------------------------------------------------------

    def _changed(self, life: FileLife) -> None:
        if not life.dirty:
            life.dirty = True
            life.dirty_at = life.soft_at = trio.current_time()
            life.dirty_since_ns = self._wall.now_ns()
        life.change += 1
        self._table.save(life)
        self.changed.set()

    def _spill(self, life: FileLife) -> None:
        """Move inline content into the spool file, over everything published."""
        if life.inline is None:
            return
        content = life.inline
        if content:
            self._lay(life, 0, content)
        life.inline = None  # not before: writing it may fail
        life.hard.spilled(content, life.change)
        if life.base_size > len(content):
            life.extents.lay(Extent(len(content), life.base_size, 0, Hold.ZERO))
        self._changed(life)  # also if what comes next fails: a clean file has no dirty extents

    def _lay(self, life: FileLife, offset: int, content: bytes) -> None:
        position = life.rewritable(offset, len(content))
        if position is not None:
            self._spool.write(life.ino, position, content)
            return
        at, end = life.next_position, offset + len(content)
        self._spool.write(life.ino, at, content)
        if at > life.spool_end:
            life.drop_regions([Region(life.spool_end, at - life.spool_end)])
        if life.hard.until >= life.spool_end:
            life.soft_at = trio.current_time()
        life.spool_end = at + len(content)
        life.drop_regions(life.hard.covered(life.extents, offset, end))
        life.extents.lay(Extent(offset, end, at, Hold.DIRTY))

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

    def _keep(self, life: FileLife, index: int, plaintext: bytes) -> None:
        """Put a fetched chunk into the spool as clean, where nothing newer lies. Never makes a read fail."""
        start = index * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, life.published_size)
        if not plaintext or end <= start or self._journal.refusal is not None:
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

    def _follow(self, life: FileLife, offset: int, end: int) -> None:
        """See whether the file is being read in sequence; if so, fetch ahead of the reader."""
        if offset != life.next_offset:
            life.next_offset, life.run_bytes = end, 0
            return
        life.next_offset = end
        life.run_bytes += end - offset
        # The kernel asks for one chunk's worth also when somebody only looks at the beginning, as file managers do.
        window = min(READ_AHEAD_CHUNKS, (life.run_bytes // CHUNK_BYTES - 1) * 2)
        if window <= 0 or life.version == 0:
            return
        first = (end - 1) // CHUNK_BYTES + 1
        last = min(first + window, chunk_count(life.published_size))
        if first < last and (life.ahead_until < first + window // 2 or life.ahead_until > last):
            wanted = [
                i
                for i in range(first, last)
                if any(p.extent is None for p in life.extents.pieces(i * CHUNK_BYTES, i * CHUNK_BYTES + 1))
            ]
            life.ahead_until = last
            if wanted:
                self._fetch.ahead(life.ino, wanted)

    def _put_map(self, frozen: Frozen, refs: dict[int, ChunkNo]) -> None:
        """Replace the rows of changed chunks, add holes where the file grew, drop rows behind its end."""
        ino, count = frozen.life.ino, chunk_count(frozen.size)
        published = chunk_count(frozen.life.published_size)
        for run in map_runs(refs, published=published, count=count):
            self._catalog.replace_map(ino, run, first=run[0].index, last=run[-1].index + run[-1].count - 1)
        if published > count:
            self._catalog.replace_map(ino, (), first=count, last=published - 1)
