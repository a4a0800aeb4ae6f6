"""Ranges: which bytes of a file the spool answers for, and where they lie.

`Extents` is the map of one file: sorted, never overlapping, adjacent ones joined. The spool file is written only at
its end, so laying new bytes over old ones never destroys the old: they become garbage, which the caller gives back
when nothing needs it any more. That is what makes the catalog's last commit the whole truth after a crash.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bitdustfs.core.laid import Laid
from bitdustfs.model import CHUNK_BYTES, HOLE, ChunkNo, Extent, Hold, MapRow


@dataclass(frozen=True, slots=True)
class Region:
    """A range of a spool file: `length` bytes from position `at` on."""

    at: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file range: what the spool says of it, or None where it holds nothing."""

    start: int
    end: int
    extent: Extent | None


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """The part of a file range that lies in one chunk: bytes [start, end) of the chunk `index`."""

    index: int
    start: int
    end: int


def chunk_parts(offset: int, length: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[ChunkPart]:
    """Cut the range [offset, offset+length) at the edges of chunks, or of other units of one length."""
    end = offset + length
    while offset < end:
        index, start = divmod(offset, chunk_bytes)
        stop = min(chunk_bytes, start + end - offset)
        yield ChunkPart(index, start, stop)
        offset += stop - start


def chunk_count(size: int) -> int:
    """How many chunks a file of `size` bytes has."""
    return -(-size // CHUNK_BYTES)


def map_runs(
    refs: Mapping[int, ChunkNo], *, published: int, count: int, laid: Laid | None = None
) -> Iterator[list[MapRow]]:
    """The map rows that turn a published file into its next version, in runs without a gap.

    Args:
        refs: changed chunk index -> chunk or HOLE, all below `count`.
        published: how many chunks the published version has. count: how many the next one has.
        laid: chunks of the next version that need no row any more; none of them is in `refs`.
    Returns:
        Runs of rows in order. Indexes from `published` to `count` that are not in `refs` become holes.
    """
    gaps = (laid or Laid()).gaps
    rows: list[MapRow] = []
    grown = published  # from here on every index needs a row
    for index in sorted(refs):
        if index > grown:
            rows.extend(MapRow(first, end - first, HOLE) for first, end in gaps(grown, index))
        rows.append(MapRow(index, 1, refs[index]))
        grown = max(grown, index + 1)
    if grown < count:
        rows.extend(MapRow(first, end - first, HOLE) for first, end in gaps(grown, count))
    return joined(rows)


def joined(rows: Iterable[MapRow]) -> Iterator[list[MapRow]]:
    """Rows in order as runs without a gap, holes that follow one another as one."""
    run: list[MapRow] = []
    for row in rows:
        if run and run[-1].index + run[-1].count != row.index:
            yield run
            run = []
        if run and run[-1].chunk == HOLE == row.chunk:
            run[-1] = replace(run[-1], count=run[-1].count + row.count)
        else:
            run.append(row)
    if run:
        yield run


class Extents:
    """The extents of one file."""

    __slots__ = ("_dirty_bytes", "_items", "_starts", "_touched")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._items: list[Extent] = []
        self._starts: list[int] = []
        self._dirty_bytes = 0
        if extents:  # each file begins with two that are empty
            self._items = sorted(extents, key=lambda e: e.start)
            self._starts = [e.start for e in self._items]
            self._dirty_bytes = sum(e.end - e.start for e in self._items if e.hold is Hold.DIRTY)
        self._touched: set[int] = set()  # where rows begin, or began, that changed

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def clean_slate(self) -> None:
        """Forget what was touched: it has been stored."""
        self._touched.clear()

    def changes(self) -> tuple[list[Extent], list[tuple[int, int]]]:
        """What has to be stored again since `clean_slate`, in order.

        Returns:
            Rows to put, and ranges of starts in which there are none any more.
        """
        put: list[Extent] = []
        gone: list[tuple[int, int]] = []
        gone_at = -1  # place in the map where the last range of `gone` was
        for start in sorted(self._touched):
            place = bisect_left(self._starts, start)
            if place < len(self._starts) and self._starts[place] == start:
                put.append(self._items[place])
            elif place == gone_at:  # no row lies between
                gone[-1] = (gone[-1][0], start + 1)
            else:
                gone.append((start, start + 1))
                gone_at = place
        return put, gone

    def between(self, start: int, end: int) -> Sequence[Extent]:
        """The extents that touch [start, end), whole."""
        low, high = self._span(start, end)
        return self._items[low:high]

    def some(self, start: int, most: int) -> Sequence[Extent]:
        """The first so many extents that end behind `start`, whole."""
        low = max(0, bisect_right(self._starts, start) - 1)
        if low < len(self._items) and self._items[low].end <= start:
            low += 1
        return self._items[low : low + most]

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Cover [start, end) without gaps: clipped extents, and None where there is none."""
        at = start
        for extent in self.between(start, end):
            clipped = clip(extent, start, end)
            if at < clipped.start:
                yield Piece(at, clipped.start, None)
            yield Piece(clipped.start, clipped.end, clipped)
            at = clipped.end
        if at < end:
            yield Piece(at, end, None)

    def lay(self, extent: Extent) -> list[Region]:
        """Put an extent over whatever is there. Returns the spool regions that nothing refers to any more.

        Bytes that keep their place in the spool, because only their `hold` changes, are not among them.
        """
        if extent.start >= extent.end:
            return []
        place = bisect_right(self._starts, extent.start) - 1
        if place >= 0:
            around = self._items[place]
            if around.start < extent.start and extent.end < around.end and not _continues(around, extent):
                return self._lay_within(place, around, extent)
        garbage = [r for r in self.cut(extent.start, extent.end) if not _refers(extent, r)]
        if extent.hold is Hold.DIRTY:
            self._dirty_bytes += extent.end - extent.start
        place = bisect_right(self._starts, extent.start)
        low, high = place, place
        if place > 0 and _joins(self._items[place - 1], extent):
            low -= 1
            extent = _join(self._items[low], extent)
        if place < len(self._items) and _joins(extent, self._items[place]):
            high += 1
            extent = _join(extent, self._items[place])
        self._touched.update(self._starts[low:high])
        self._touched.add(extent.start)
        self._items[low:high] = [extent]
        self._starts[low:high] = [extent.start]
        return garbage

    def _lay_within(self, place: int, around: Extent, extent: Extent) -> list[Region]:
        """The same inside one extent that stays on both sides: what a write at random mostly finds."""
        start, end, at, hold = around
        is_zero = hold is Hold.ZERO
        rest = Extent(extent.end, end, 0 if is_zero else at + extent.end - start, hold)
        self._items[place : place + 1] = [Extent(start, extent.start, at, hold), extent, rest]
        self._starts[place + 1 : place + 1] = [extent.start, extent.end]
        self._touched.update((start, extent.start, extent.end))
        length = extent.end - extent.start
        self._dirty_bytes += ((extent.hold is Hold.DIRTY) - (hold is Hold.DIRTY)) * length
        return [] if is_zero else [Region(at + extent.start - start, length)]

    def cut(self, start: int, end: int) -> list[Region]:
        """Take [start, end) out. Returns the spool regions that nothing refers to any more."""
        low, high = self._span(start, end)
        if low == high:
            return []
        first, last = self._items[low], self._items[high - 1]
        taken = [clip(e, start, end) for e in self._items[low:high]]
        garbage = [Region(e.at, e.end - e.start) for e in taken if e.hold is not Hold.ZERO]
        self._dirty_bytes -= sum(e.end - e.start for e in taken if e.hold is Hold.DIRTY)
        kept = []
        if first.start < start:
            kept.append(clip(first, first.start, start))
        if last.end > end:
            kept.append(clip(last, end, last.end))
        self._touched.update(self._starts[low:high])
        self._items[low:high] = kept
        self._starts[low:high] = [e.start for e in kept]
        self._touched.update(self._starts[low : low + len(kept)])
        return garbage

    def clean(self, published: Extents) -> None:
        """Take in that suppliers have what a version says: where that still is so, bytes are clean and zeros go."""
        items = self._items
        for was in published:
            if was.hold is Hold.CLEAN:
                continue
            place = bisect_left(self._starts, was.start)
            if was.hold is Hold.ZERO or place == len(items) or items[place] != was:
                self._clean(was)
                continue
            start, end, at, _ = was
            left, right = items[place - 1], items[(place + 1) % len(items)]
            if left.at + left.end - left.start == at or at + end - start == right.at:
                self._clean(was)  # it may become one with a neighbour
            else:  # writes at random leave thousands of these
                items[place] = Extent(start, end, at, Hold.CLEAN)
                self._touched.add(start)
                self._dirty_bytes -= end - start

    def _clean(self, was: Extent) -> None:
        for now in list(self.between(was.start, was.end)):
            same = clip(now, was.start, was.end)
            if same != clip(was, same.start, same.end):
                continue
            if same.hold is Hold.ZERO:
                self.cut(same.start, same.end)
            else:
                self.lay(Extent(same.start, same.end, same.at, Hold.CLEAN))

    def is_clean(self, start: int, end: int) -> bool:
        """Say whether nothing in [start, end) is dirty."""
        return all(e.hold is Hold.CLEAN for e in self.between(start, end))

    def dirty_bytes(self) -> int:
        """Bytes in the spool that no published version has."""
        return self._dirty_bytes

    def dirty_chunks(self) -> list[int]:
        """Indexes of the chunks with a dirty byte, in order, each once."""
        found: list[int] = []
        for extent in self._items:
            if extent.hold is Hold.CLEAN:
                continue
            first = extent.start // CHUNK_BYTES
            if found and found[-1] == first:
                first += 1
            found.extend(range(first, (extent.end - 1) // CHUNK_BYTES + 1))
        return found

    def _span(self, start: int, end: int) -> tuple[int, int]:
        low = bisect_right(self._starts, start)
        if start >= end:
            return low, low
        if low > 0 and self._items[low - 1].end > start:
            low -= 1
        return low, bisect_left(self._starts, end, low)


def clip(extent: Extent, start: int, end: int) -> Extent:
    """The part of an extent inside [start, end)."""
    low, high = max(extent.start, start), min(extent.end, end)
    if low == extent.start and high == extent.end:
        return extent
    at = 0 if extent.hold is Hold.ZERO else extent.at + low - extent.start
    return Extent(low, high, at, extent.hold)


def _refers(extent: Extent, region: Region) -> bool:
    # a spool position is written for one place of the file only: a region lies in the extent whole or not at all
    return extent.hold is not Hold.ZERO and extent.at <= region.at < extent.at + extent.end - extent.start


def _continues(around: Extent, extent: Extent) -> bool:
    """The same spool bytes as they lie there, or zeros in zeros: whatever `hold` says."""
    if extent.hold is Hold.ZERO or around.hold is Hold.ZERO:
        return extent.hold is around.hold
    return extent.at - extent.start == around.at - around.start


def _joins(left: Extent, right: Extent) -> bool:
    if left.end != right.start or left.hold is not right.hold:
        return False
    return left.hold is Hold.ZERO or left.at + left.end - left.start == right.at


def _join(left: Extent, right: Extent) -> Extent:
    return Extent(left.start, right.end, left.at, left.hold)
