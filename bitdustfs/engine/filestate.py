"""The life of one file on this machine, and the versions taken from it.

`FileLife` is what `Files` keeps in memory for a file that is open, dirty or just used; it is stored in the catalog's
local tables by each commit. `Frozen` is one version on its way to the suppliers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bitdustfs.core.laid import Laid
from bitdustfs.core.ranges import Extents, Piece, Region, chunk_count, chunk_parts, clip
from bitdustfs.core.sums import ROW_SUMS, unit_ceil, unit_floor
from bitdustfs.engine.endangered import Needed
from bitdustfs.engine.hardness import Hardness
from bitdustfs.model import CHUNK_BYTES, SUM_UNIT_BYTES, ChunkNo, Code, Extent, Hold, Ino, Layer


@dataclass(frozen=True, slots=True)
class Garbage:
    """Spool bytes that nothing live refers to, dropped while freeze number `freeze` was the newest."""

    region: Region
    freeze: int


@dataclass(slots=True, eq=False)
class FileLife:
    """A regular file as it is now. Positions are of its spool file, sizes in bytes."""

    ino: Ino
    size: int
    mtime_ns: int
    ctime_ns: int
    inline: bytes | None = None  # the whole content, if it is kept in the catalog
    version: int = 0  # of the published file; 0 = unborn
    published_size: int = 0  # of the published version: gaps above it are zeros
    spool_end: int = 0
    soft_from: int = 0  # spool bytes below are never written again: hardened, summed, being so, or frozen
    hard: Hardness = field(default_factory=Hardness)
    damaged: bool = False  # its inline content is not what was stored: only writing it anew helps
    spool_files: int = 0  # how often its spool file was removed, and positions started anew
    dirty: bool = False
    dirty_since_ns: int = 0
    dirty_at: float = 0.0  # trio time
    soft_at: float = 0.0  # trio time since when it has changes that are not hard, if it has
    change: int = 0
    published_change: int = 0  # the change that the published version contains
    opens: int = 0
    dead: bool = False
    extents: Extents = field(default_factory=Extents)
    stored_inline: bytes | None = None
    garbage: list[Garbage] = field(default_factory=list)
    dead_bytes: dict[int, int] = field(default_factory=dict)  # unit of spool -> bytes of garbage, where not all is
    dead_units: dict[int, int] = field(default_factory=dict)  # row of sums -> units given back, where not all are
    frozen: Frozen | None = None
    freezes: int = 0
    patience_s: float = 0.0  # how long a change waits before it is uploaded; grows while the file is hot
    placed_ahead: dict[int, ChunkNo] = field(default_factory=dict)  # chunks of the next version, placed already
    going_ahead: dict[int, object] = field(default_factory=dict)  # chunk index -> its upload, the writer's
    laid: Laid = field(default_factory=Laid)  # those of them that are in the map already
    mapped_until: int = 0  # chunk index below which the map may have rows of versions that are not published
    stream_at: float = 0.0  # trio time before which no more chunks are taken ahead
    last_chunk: int = -1  # written last: may be written again at once
    next_offset: int = 0  # where a sequential reader reads next
    run_bytes: int = 0  # how long it has been sequential
    ahead_until: int = 0  # chunk index up to which read-ahead was asked for

    @property
    def base_size(self) -> int:
        """How far published bytes reach, or will once the version on its way is published."""
        return max(self.published_size, self.frozen.size if self.frozen else 0)

    @property
    def layers(self) -> tuple[tuple[Layer, Extents], ...]:
        """Its maps, as the catalog stores them."""
        return (Layer.LIVE, self.extents), (Layer.BENEATH, self.hard.beneath)

    @property
    def is_bare(self) -> bool:
        """This machine holds nothing of it but what the replicated tables say."""
        return not self.dirty and self.kept_inline is None and not len(self.extents) and self.spool_end == 0

    @property
    def kept_inline(self) -> bytes | None:
        """What the catalog keeps as inline content: the file's, or what is hard of it until the spool is."""
        return self.inline if self.inline is not None else self.hard.inline

    @property
    def dirty_bytes(self) -> int:
        """Bytes that exist only here."""
        if not self.dirty:
            return 0
        return len(self.inline) if self.inline is not None else self.extents.dirty_bytes()

    @property
    def idle(self) -> bool:
        """Nobody needs this in memory."""
        if self.opens > 0 or self.dirty or self.frozen is not None:
            return False
        return not self.garbage and self.hard.summed >= self.spool_end and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """It has a spool file, in which no map refers to anything."""
        return self.spool_end > 0 and all(e.hold is Hold.ZERO for _, layer in self.layers for e in layer)

    @property
    def is_spent(self) -> bool:
        """Its spool file holds nothing that anything refers to."""
        return self.frozen is None and not self.going_ahead and not self.hard.turn.locked() and self.is_empty

    @property
    def next_position(self) -> int:
        """Where dirty bytes go next: not into a unit of which clean bytes were summed without being hard.

        A power loss may take those, and then the unit's sum would speak against the dirty ones.
        """
        edge = unit_ceil(self.hard.summed)
        return edge if self.hard.until < self.hard.summed and self.spool_end < edge else self.spool_end

    def holds(self, at: int, end: int) -> set[Hold]:
        """What lies at spool positions [at, end), in the file or in the version on its way."""
        layers = (self.extents, self.hard.beneath, self.frozen.extents if self.frozen else ())
        return {
            e.hold
            for layer in layers
            for e in layer
            if e.hold is not Hold.ZERO and e.at < end and at < e.at + e.end - e.start
        }

    def modified(self, start: int, end: int) -> None:
        """Note that bytes [start, end) changed: uploads of their old content are for nothing."""
        first, last = start // CHUNK_BYTES, max(start, end - 1) // CHUNK_BYTES
        for pending in (self.placed_ahead, self.going_ahead):
            if last - first < len(pending):
                for index in range(first, last + 1):
                    pending.pop(index, None)
            else:
                for index in [i for i in pending if first <= i <= last]:
                    del pending[index]
        self.laid.discard(first, last)
        self.last_chunk = last

    def drop_regions(self, regions: Iterable[Region]) -> None:
        """Take spool bytes that extents let go."""
        self.garbage.extend(Garbage(region, self.freezes) for region in regions)

    def take_garbage(self, most: int) -> tuple[list[Garbage], bool]:
        """Take the garbage that the version on its way, if any, does not need, as far as it fills units.

        Args:
            most: regions that are looked at; what is behind them is left.
        Returns:
            Whole units, and whether all was looked at.
        """
        taken, self.garbage = self.garbage[:most], self.garbage[most:]
        is_all = not self.garbage
        if self.frozen is not None:
            needed = [g for g in taken if g.freeze >= self.frozen.number]
            is_all = is_all or bool(needed)  # what was dropped later is needed too
            taken = [g for g in taken if g.freeze < self.frozen.number]
            self.garbage = needed + self.garbage
        return [Garbage(whole, each.freeze) for each in taken for whole in self._whole_units(each.region)], is_all

    def count_dead(self) -> None:
        """After loading: find what is dead beside live bytes in each unit and row. The rest was given back before."""
        units: defaultdict[int, int] = defaultdict(int)  # live bytes, where something ends inside
        rows: defaultdict[int, int] = defaultdict(int)  # units that are kept, where no extent has all
        if self.spool_end % SUM_UNIT_BYTES:
            units[self.spool_end // SUM_UNIT_BYTES] = 0
        for start, stop, at, _ in [e for _, layer in self.layers for e in layer if e.hold is not Hold.ZERO]:
            unit, before = divmod(at, SUM_UNIT_BYTES)  # by hand: files in thousands of pieces are loaded in one go
            last, behind = divmod(at + stop - start, SUM_UNIT_BYTES)
            if unit == last:
                units[unit] += stop - start
                continue
            if before:
                units[unit] += SUM_UNIT_BYTES - before
                unit += 1
            if behind:
                units[last] += behind
            for low, high in _edges(unit, last, ROW_SUMS) if unit < last else ():
                rows[low // ROW_SUMS] += high - low
        for unit, live in units.items():
            rows[unit // ROW_SUMS] += 1
            dead = min(SUM_UNIT_BYTES, self.spool_end - unit * SUM_UNIT_BYTES) - live
            if dead:
                self.dead_bytes[unit] = dead
        for row, kept in rows.items():
            written = min(ROW_SUMS, unit_ceil(self.spool_end) // SUM_UNIT_BYTES - row * ROW_SUMS)
            if kept < written:
                self.dead_units[row] = written - kept

    def reclaim(self) -> None:
        """At a start: take as garbage whatever nothing refers to, also what may have been given back before."""
        self.garbage.clear()
        self.dead_bytes.clear()
        self.count_dead()
        self.dead_units.clear()
        at = 0
        live = [(e.at, e.at + e.end - e.start) for _, layer in self.layers for e in layer if e.hold is not Hold.ZERO]
        for start, end in [*sorted(live), (self.spool_end, self.spool_end)]:
            first, last = unit_ceil(at), unit_floor(start)
            if first < last:
                self.drop_regions([Region(first, last - first)])
            at = max(at, end)

    def _whole_units(self, region: Region) -> list[Region]:
        """The units that are garbage whole now that `region` is. Others are kept: a sum speaks of all of a unit."""
        first, last = unit_ceil(region.at), unit_floor(region.at + region.length)
        whole = [Region(first, last - first)] if first < last else []
        for start, stop in _edges(region.at, region.at + region.length, SUM_UNIT_BYTES):
            unit = start // SUM_UNIT_BYTES
            dead = self.dead_bytes.pop(unit, 0) + stop - start
            if dead < SUM_UNIT_BYTES:
                self.dead_bytes[unit] = dead
            else:
                whole.append(Region(unit * SUM_UNIT_BYTES, SUM_UNIT_BYTES))
        return whole

    def rewritable(self, offset: int, length: int) -> int | None:
        """The spool position where [offset, offset+length) may be written in place, if it may."""
        found = self.extents.between(offset, offset + length)
        if len(found) != 1 or found[0].hold is not Hold.DIRTY:
            return None
        extent = found[0]
        if extent.start > offset or extent.end < offset + length:
            return None
        position = extent.at + offset - extent.start
        return position if position >= self.soft_from else None

    def absorb(self, frozen: Frozen) -> None:
        """Take in that `frozen` is published: what did not change since is clean now."""
        self.extents.clean(frozen.extents)
        self.drop_regions(self.hard.published(frozen.size, frozen.change))
        self.published_change = frozen.change
        if self.change == frozen.change:
            self.dirty = False
            self.dirty_since_ns = 0

    @property
    def has_clean(self) -> bool:
        """The spool holds something of it that suppliers have too."""
        if self.inline is not None:
            return not self.dirty and self.version > 0
        return any(e.hold is Hold.CLEAN for e in self.extents)

    @property
    def clean_bytes(self) -> int:
        """How many bytes the spool holds of it that suppliers have too."""
        if self.inline is not None:
            return len(self.inline) if self.has_clean else 0
        return sum(e.end - e.start for e in self.extents if e.hold is Hold.CLEAN)

    def drop_clean(self, need_bytes: int, needed: Needed | None = None) -> int:
        """Forget clean bytes, at least `need_bytes` if there are. Returns how many.

        Args:
            needed: chunks of which nothing is forgotten.
        """
        if self.inline is not None:
            if not self.has_clean or (needed is not None and needed(self.ino, 0)):
                return 0
            dropped, self.inline = len(self.inline), None
            return dropped
        dropped = 0
        clean = [e for e in self.extents if e.hold is Hold.CLEAN]
        for extent in sorted(clean, key=lambda e: e.at):  # what came into the spool first
            if dropped >= need_bytes:
                break
            chunks = -(-(extent.start + need_bytes - dropped) // CHUNK_BYTES)
            end = min(extent.end, chunks * CHUNK_BYTES)
            if needed is None:
                self.drop_regions(self.extents.cut(extent.start, end))
                dropped += end - extent.start
            else:
                dropped += self._drop_unneeded(extent, need_bytes - dropped, needed)
        return dropped

    def drop_clean_from(
        self, start: int, need_bytes: int, most: int, needed: Needed | None = None
    ) -> tuple[int, int | None]:
        """Forget clean bytes behind a place in the file, up to about `need_bytes`.

        Args:
            most: extents that are looked at.
            needed: chunks of which nothing is forgotten.
        Returns:
            How many, and the place to go on from; None: there is nothing more.
        """
        if self.inline is not None:
            return self.drop_clean(need_bytes, needed), None
        dropped, some = 0, self.extents.some(start, most)
        for extent in some:
            if dropped >= need_bytes:
                return dropped, extent.start
            if extent.hold is not Hold.CLEAN:
                continue
            at = max(start, extent.start)
            end = min(extent.end, -(-(at + need_bytes - dropped) // CHUNK_BYTES) * CHUNK_BYTES)
            if needed is None:
                self.drop_regions(self.extents.cut(at, end))
                dropped += end - at
            else:
                dropped += self._drop_unneeded(clip(extent, at, end), need_bytes - dropped, needed)
            if end < extent.end:
                return dropped, end
        return dropped, some[-1].end if len(some) == most else None

    def _drop_unneeded(self, extent: Extent, need_bytes: int, needed: Needed) -> int:
        dropped = 0
        for part in chunk_parts(extent.start, extent.end - extent.start):
            if dropped >= need_bytes:
                break
            if not needed(self.ino, part.index):
                start = part.index * CHUNK_BYTES + part.start
                self.drop_regions(self.extents.cut(start, start + part.end - part.start))
                dropped += part.end - part.start
        return dropped


def _edges(start: int, end: int, unit: int) -> list[tuple[int, int]]:
    """The parts of [start, end) that lie in units that it does not fill."""
    first, last = -(-start // unit) * unit, end // unit * unit
    parts = [(start, first), (last, end)] if first <= last else [(start, end)]
    return [(low, high) for low, high in parts if low < high]


@dataclass(frozen=True, slots=True)
class FrozenChunk:
    """One changed chunk of a frozen version: what the spool has of it, or its inline bytes."""

    index: int
    length: int  # bytes up to the end of the file or of the chunk
    pieces: tuple[Piece, ...]
    inline: bytes | None = None

    @property
    def is_zero(self) -> bool:
        """Only zeros, by the extents alone."""
        return self.inline is None and all(p.extent is not None and p.extent.hold is Hold.ZERO for p in self.pieces)


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """One version of a file on its way to the suppliers."""

    life: FileLife
    number: int
    change: int
    size: int
    mtime_ns: int
    ctime_ns: int
    code: Code | None  # of its inode; None: the volume's
    extents: Extents
    inline: bytes | None
    changed: tuple[int, ...]  # indexes of the chunks that differ from the published version, and were not laid then
    placed: dict[int, ChunkNo]  # those of them that were placed ahead
    laid: Laid  # chunks that the map has already

    def chunk(self, index: int) -> FrozenChunk:
        """One changed chunk of this version."""
        start = index * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, self.size)
        if self.inline is not None:
            return FrozenChunk(index, end - start, (), self.inline)
        return FrozenChunk(index, end - start, tuple(self.extents.pieces(start, end)))


def freeze(life: FileLife, code: Code | None) -> Frozen:
    """Take the version of this moment. The life keeps it as `frozen` until it is published or given up."""
    assert life.frozen is None and not life.going_ahead, "what goes ahead is taken over first"
    life.freezes += 1
    life.hard.frozen()
    life.soft_from = life.spool_end
    if life.inline is not None:
        changed: tuple[int, ...] = (0,) if life.inline else ()
    else:
        count = chunk_count(life.size)
        changed = tuple(i for i in life.laid.others(life.extents.dirty_chunks()) if i < count)
    life.frozen = Frozen(
        life=life,
        number=life.freezes,
        change=life.change,
        size=life.size,
        mtime_ns=life.mtime_ns,
        ctime_ns=life.ctime_ns,
        code=code,
        extents=Extents(life.extents),
        inline=life.inline,
        changed=changed,
        placed={i: life.placed_ahead[i] for i in changed if i in life.placed_ahead},
        laid=life.laid,
    )
    life.placed_ahead, life.laid = {}, Laid()
    return life.frozen


def chunk_ahead(life: FileLife, index: int) -> FrozenChunk:
    """One chunk as it is now, to be uploaded before its version is frozen."""
    start = index * CHUNK_BYTES
    return FrozenChunk(index, CHUNK_BYTES, tuple(life.extents.pieces(start, start + CHUNK_BYTES)))
