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
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import trio

from bitdustfs.core.health import block_state, worst
from bitdustfs.core.laid import LAID_MOST, Laid
from bitdustfs.core.ranges import Piece, Region, chunk_count, joined, map_runs
from bitdustfs.engine.cache import Cache
from bitdustfs.engine.fileread import Fetch, FileReader
from bitdustfs.engine.filestate import FileLife, Frozen, freeze
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.hardener import Hardener
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.room import Room
from bitdustfs.engine.spooled import Spooled, Unchecked
from bitdustfs.errors import FileError, NotFound, SpoolDamaged
from bitdustfs.model import (
    CHUNK_BYTES,
    INLINE_BYTES,
    MAX_FILE_BYTES,
    ChunkNo,
    Extent,
    FileState,
    Hold,
    Ino,
    Inode,
    MapRow,
)
from bitdustfs.ports import Catalog, Spool, Wall

BUSY_S = 0.05  # (tune) a write this short ago means that more are coming
COLLECT_EVERY_S = 5.0  # how often unneeded spool bytes are given back
_FOREVER = 1 << 62


class Files:
    """The live content of all regular files of a volume."""

    def __init__(
        self, catalog: Catalog, spool: Spool, journal: Journal, wall: Wall, fetch: Fetch, *, spool_limit: int
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._journal = journal
        self._wall = wall
        self._written_at = -BUSY_S
        self._going: dict[Ino, int] = {}  # files that the next view does not have -> bytes of them in the catalog
        self._table = FileTable(catalog, journal)
        self._spooled = Spooled(catalog, spool)
        self._hardener = Hardener(catalog, journal, spool, self._table, self._spooled)
        self._room = Room(spool, self._spooled, journal, self._table, spool_limit)
        self.cache = Cache(
            catalog, spool, journal, self._table, self._spooled, self._room, lambda: self.changed.set()
        )
        self._reader = FileReader(self._table, self._spooled, self.cache, fetch)
        self.changed = trio.Event()  # set when there may be work for the writer
        self.is_asked: Callable[[], bool] = lambda: False  # somebody waits for one answer after another
        self.out_of_quota: Callable[[], str] = lambda: ""  # what to do if uploads wait for room at suppliers
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
        if life.size == inode.size and life.mtime_ns == inode.mtime_ns and ctime_ns == inode.ctime_ns:
            return inode
        return inode.changed(size=life.size, mtime_ns=life.mtime_ns, ctime_ns=ctime_ns)

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
                self._catalog.put_inode(inode.changed(mtime_ns=mtime_ns))
        self._table.save(life)

    def state(self, ino: Ino) -> FileState:
        """How safe a file is now."""
        if self.is_dirty(ino):
            return FileState.LOCAL
        found = self.published_state(ino)
        return FileState.LOCAL if found is FileState.LOST and self.is_whole_here(ino) else found

    def published_state(self, ino: Ino) -> FileState:
        """How safe the newest published version of a file is at suppliers."""
        held = self._catalog.held_of(ino)
        found = worst([block_state(*each, local_copy=False) if each else FileState.LOST for each in held])
        if self.is_unsure() and found is FileState.PLACED:
            return FileState.DEGRADED
        return FileState.SAFE if found is FileState.PLACED and self.is_safe(ino) else found

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

    def read_here(self, ino: Ino, offset: int, length: int) -> bytes | None:
        """`read`, if all is here; None: something has to be fetched. Raises SpoolDamaged, DiskFault."""
        return self._reader.read_here(ino, offset, length)

    async def read(self, ino: Ino, offset: int, length: int) -> bytes:
        """Read up to `length` bytes. Raises Unavailable or its kin, BlockLost, ChunkMissing, DiskFault."""
        return await self._reader.read(ino, offset, length)

    async def write(self, ino: Ino, offset: int, content: bytes) -> int:
        """Write at any offset; never waits for a supplier. Raises SpoolFull, DiskFull, DiskFault."""
        end = offset + len(content)
        if end > MAX_FILE_BYTES:
            raise FileError(errno=errno.EFBIG, what=f"a file holds at most {MAX_FILE_BYTES} bytes")
        if not content:
            return 0
        if not self._room.has(len(content)):
            await self._room.wait_for(len(content), drop=self.cache.make_room, out_of_quota=self.out_of_quota)
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
        self._hardener.wrote(life)
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

    def spooled_unchecked(self, life: FileLife, piece: Piece) -> Unchecked:
        """The same, for who checks it elsewhere. Raises DiskFault."""
        assert piece.extent is not None and piece.extent.hold is not Hold.ZERO
        return self._spooled.unchecked(life, piece.extent.at, piece.end - piece.start)

    def has_room(self, length: int) -> bool:
        """A write of so many bytes does not have to wait."""
        return self._room.has(length)

    def is_pressed(self) -> bool:
        """A write waits until something that is dirty now was published."""
        return self._room.waiting > 0

    def is_written(self) -> bool:
        """Somebody is writing right now, and the spool has room for much more."""
        return trio.current_time() - self._written_at < BUSY_S and self._room.is_ample()

    def is_busy(self) -> bool:
        """The same, or somebody waits for one answer after another: uploads can wait, he cannot."""
        return self.is_written() or (self.is_asked() and self._room.is_ample())

    # -- versions: what the writer asks ----------------------------------------------------------------------

    def dirty_lives(self) -> Sequence[FileLife]:
        """All files with something unpublished."""
        return [life for life in self._table if life.dirty]

    def is_dirty(self, ino: Ino) -> bool:
        """Whether something of a file is unpublished."""
        life = self._table.loaded(ino)
        return life is not None and life.dirty

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

    def lay(self, life: FileLife, laid: Laid, refs: Mapping[int, ChunkNo], known: Container[ChunkNo]) -> list[int]:
        """Put rows of the next version into the map already, as far as they lie behind the published end.

        Args:
            laid: of that version, or of the one to come.
            refs: chunk index -> placed chunk.
            known: those of the chunks that were found placed.
        Returns:
            The indexes that were laid.
        Raises:
            DiskFull, DiskFault, ReadOnly: none was.
        """
        if life.dead or self._catalog.inode(life.ino) is None:
            return []
        places = {index: self._catalog.place_of(refs[index]) for index in sorted(refs)}
        first = chunk_count(life.published_size)
        rows = [MapRow(i, 1, refs[i]) for i, place in places.items() if place and first <= i < LAID_MOST]
        with self._journal.operation():
            for run in joined(rows):
                is_empty = life.version == 0 and run[0].index >= life.mapped_until
                self._catalog.replace_map(life.ino, run, first=run[0].index, last=run[-1].index, is_empty=is_empty)
        for row in rows:
            place = places[row.index]
            assert place is not None
            least = place.code.quorum if row.chunk in known else place.code.k
            laid.blocks[place.block] = max(least, laid.blocks.get(place.block, 0))
            laid.add(row.index)
            life.mapped_until = max(life.mapped_until, row.index + 1)
        return [row.index for row in rows]

    def laid(self) -> list[tuple[Ino, int, int]]:
        """Files that have rows behind their published end: the first and the last index where some may be."""
        ends = [(life, chunk_count(life.published_size)) for life in self._table if life.mapped_until]
        return [(life.ino, end, life.mapped_until - 1) for life, end in ends if end < life.mapped_until]

    def publish(self, frozen: Frozen, refs: dict[int, ChunkNo]) -> bool:
        """Make a frozen version the published one, in one operation. False if the file is gone.

        Args:
            refs: chunk index -> placed chunk or HOLE, for exactly the changed chunks that are not laid.
        """
        life = frozen.life
        inode = self._catalog.inode(life.ino)
        if life.dead or inode is None:
            return False
        times = life if life.change == frozen.change else frozen  # touched, but not changed: the times are of now
        with self._journal.operation():
            self._put_map(frozen, refs)
            self._catalog.put_inode(
                inode.changed(
                    size=frozen.size,
                    mtime_ns=times.mtime_ns,
                    ctime_ns=max(inode.ctime_ns, times.ctime_ns),
                    version=inode.version + 1,
                )
            )
            self.on_published(life.ino)
        life.frozen = None
        life.mapped_until = 0
        life.version = inode.version + 1
        life.published_size = frozen.size
        life.absorb(frozen)
        self.cache.may_have_more()
        self._table.save(life)
        self._room.freed()
        self._table.let_go(life)
        return True

    # -- steps of a reader -------------------------------------------------------------------------------------

    def let_go_of(self, contents: Mapping[Ino, Sequence[tuple[int, int]]], gone: Iterable[Ino]) -> None:
        """Forget copies of what another view shows otherwise: before it is made, so that a crash keeps none.

        Args:
            contents: (first chunk index, how many) of each file.
            gone: files that it does not have; their rows go with the step.
        """
        self._going = {ino: self._table.stored_inline(ino) for ino in gone}
        for ino, spans in contents.items():
            if self._table.loaded(ino) is None and self._catalog.local_file(ino) is None:
                continue
            life = self._table.life(ino, is_use=False)
            if life.inline is not None and not life.dirty:
                life.inline = None
            for first, count in spans:
                life.drop_regions(life.extents.cut(first * CHUNK_BYTES, (first + count) * CHUNK_BYTES))
            self._table.save(life)

    def stepped(self, changed: Iterable[Ino]) -> None:
        """Take over what another view says of files, right after it was made."""
        going, self._going = self._going, {}
        for ino, stored in going.items():
            self._table.drop(ino, stored)
            self._room.doom(ino)
        for ino in changed:
            life, inode = self._table.loaded(ino), self._catalog.inode(ino)
            if life is None or inode is None or life.dirty:
                continue
            life.size, life.mtime_ns, life.ctime_ns = inode.size, inode.mtime_ns, inode.ctime_ns
            life.version, life.published_size = inode.version, inode.size if inode.version else 0
            life.hard.size = life.published_size
            self._table.let_go(life)

    # -- the spool ---------------------------------------------------------------------------------------------

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

    def _put_map(self, frozen: Frozen, refs: dict[int, ChunkNo]) -> None:
        """Replace the rows of changed chunks, add holes where the file grew, drop rows behind its end."""
        life, count = frozen.life, chunk_count(frozen.size)
        published = chunk_count(life.published_size)
        for run in map_runs(refs, published=published, count=count, laid=frozen.laid):
            last = run[-1].index + run[-1].count - 1
            is_empty = life.version == 0 and run[0].index >= life.mapped_until
            self._catalog.replace_map(life.ino, run, first=run[0].index, last=last, is_empty=is_empty)
        end = max(published, life.mapped_until)
        if end > count:
            self._catalog.replace_map(life.ino, (), first=count, last=end - 1)
