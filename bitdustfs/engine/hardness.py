"""Hardness: what of one file survives a power loss, and what a power loss would make of the file.

Spool bytes below `until` were synced, those from there on are *soft*. When soft bytes are laid over hard ones, the
catalog's last commit names the soft ones; a power loss may take them and keep that commit. So the hard bytes stay in
the spool and are kept in a second map, `beneath`, until what covers them is hard as well. After a power loss soft
bytes are cut out of the live map and `beneath` is laid back: the file is as it was when it was hardened last, or
published if that was later. Zeros laid by a truncation are hard at once: they have no bytes in the spool.

While a sync runs, the state that it will make hard is fixed and writing goes on: `_next` collects what will be
beneath when it succeeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from bitdustfs.core.ranges import Extents, Region, clip
from bitdustfs.model import Extent, Hold

_FOREVER = 1 << 62
_EVERYTHING = (0, _FOREVER)


class Hardness:
    """What is hard of one file. Positions are of its spool file; the caller owns the live map."""

    __slots__ = ("_goal", "_goal_change", "_goal_size", "_next", "beneath", "change", "cut_change", "cut_low",
                 "inline", "size", "summed", "turn", "until")  # fmt: skip

    def __init__(self, *, until: int = 0, summed: int = 0, size: int = 0, change: int = 0) -> None:
        self.until = until
        self.summed = summed  # spool bytes below have check sums
        self.size = size  # of the file, if a power loss takes what is soft
        self.change = change  # of the state that was hardened, published or in the catalog last
        self.cut_change = 0  # of the last truncation
        self.cut_low = _FOREVER  # the least size since a version was frozen: zeros beneath from there on are newer
        self.inline: bytes | None = None  # content in the catalog that soft spool bytes stand in for now
        self.beneath = Extents()
        self.turn = trio.Lock()  # held by who sums or hardens
        self._next: Extents | None = None
        self._goal = self._goal_size = self._goal_change = 0

    def covered(self, live: Extents, start: int, end: int) -> list[Region]:
        """Note what soft bytes that are laid next over [start, end) will cover. Returns what nothing needs then."""
        garbage = []
        for extent in live.between(start, end):
            piece = clip(extent, start, end)
            if piece.hold is Hold.CLEAN:
                garbage.append(Region(piece.at, piece.end - piece.start))
                continue
            for part in _cut_at(piece, (self.until,) if self._next is None else (self.until, self._goal)):
                kept = False
                if part.hold is Hold.ZERO or part.at < self.until:
                    kept = _lay_beneath(self.beneath, part)
                if self._next is not None and (part.hold is Hold.ZERO or part.at < self._goal):
                    kept |= _lay_beneath(self._next, part)
                if not kept and part.hold is not Hold.ZERO:
                    garbage.append(Region(part.at, part.end - part.start))
        return garbage

    def truncated(self, old_size: int, size: int, change: int) -> list[Region]:
        """Note that the file got this size, by a change of the catalog alone. Returns what nothing needs any more.

        Args:
            old_size: its size before. What lies between that and what is hard is soft: a power loss may take it,
                and zeros that were laid behind it do not stand in for it.
        """
        garbage = self._dropped(self.beneath, size)
        if self._next is not None:
            garbage += self._dropped(self._next, size)
        self.size = _resized(self.size, old_size, size)
        self._goal_size = _resized(self._goal_size, old_size, size)
        self.cut_change = change
        self.cut_low = min(self.cut_low, size)
        if self.inline is not None:
            self.inline = self.inline[:size] or None
        return garbage

    def begin(self, end: int, size: int, change: int) -> None:
        """A sync of spool bytes below `end` starts; the file has this size and was changed so often."""
        self._goal, self._goal_size, self._goal_change = end, size, change
        self._next = Extents()

    def give_up(self) -> list[Region]:
        """The sync is over; if it was not completed, it changed nothing. Returns what nothing needs any more."""
        after, self._next = self._next, None
        return _only_in(after, self.beneath) if after is not None else []

    def complete(self) -> list[Region]:
        """The sync succeeded: what it began with is hard. Returns what nothing needs any more."""
        assert self._next is not None
        after, self._next = self._next, None
        garbage = _only_in(self.beneath, after)
        self.beneath.cut(*_EVERYTHING)
        for extent in after:
            self.beneath.lay(extent)
        self.until = self._goal
        if self.change > self._goal_change:
            return garbage  # newer content was published, or spilled out of the catalog, meanwhile
        self.change = self._goal_change
        self.inline = None
        self.size = self._goal_size
        return garbage

    def frozen(self) -> None:
        """A version is taken: what is cut from now on is newer than what `published` will say of it."""
        self.cut_low = _FOREVER

    def published(self, size: int, change: int) -> list[Region]:
        """Suppliers have the file as it was at `change`, frozen last. Returns what nothing needs any more."""
        if change < self.change:
            return []
        old = _taken(self.beneath, 0, self.cut_low)
        if self._next is None:
            garbage = _regions(old)
        elif self._goal_change > change:
            garbage = _only_in(old, self._next)
        else:
            after = _taken(self._next, 0, self.cut_low)
            garbage = _only_in(old, after) + _regions(after)
        self.change = change
        self.inline = None
        if self.cut_change <= change:
            self.size = max(self.size, size)
        return garbage

    def spilled(self, content: bytes, change: int) -> None:
        """Content that is hard in the catalog goes into the spool, where it is soft for now."""
        self.inline = content or None
        self.size = len(content)
        self.change = change

    def cut_unsummed(self, live: Extents) -> list[Region]:
        """At a start: let clean bytes go that nothing could tell from damaged ones."""
        return [r for part in _parts(live, self.summed) if part.hold is Hold.CLEAN and part.at >= self.summed
                for r in live.cut(part.start, part.end)]  # fmt: skip

    def revert(self, live: Extents) -> list[Region]:
        """After a power loss: make the live map what was hard. Returns what was not."""
        soft = [p for p in _parts(live, self.until) if p.hold is Hold.DIRTY and p.at >= self.until]
        lost = [region for part in soft for region in live.cut(part.start, part.end)]
        for extent in self.beneath:
            live.lay(extent)
        self.beneath.cut(*_EVERYTHING)
        return lost

    def restart(self) -> None:
        """The spool file was removed: positions begin anew. Nothing was beneath."""
        self.until = self.summed = 0

    def _dropped(self, layer: Extents, size: int) -> list[Region]:
        """Cut a layer at a size; regions that the other layer still has are not among those returned."""
        other = self._next if layer is self.beneath else None
        lost = _taken(layer, size, _FOREVER)
        return _only_in(lost, other) if other is not None else _regions(lost)


def _taken(layer: Extents, start: int, end: int) -> Extents:
    """Take [start, end) out of a layer."""
    if not len(layer):
        return Extents()
    taken = Extents(clip(e, start, end) for e in layer.between(start, end))
    layer.cut(start, end)
    return taken


def _resized(hard_size: int, old_size: int, size: int) -> int:
    """What a truncation makes of the size that is hard."""
    return size if size < hard_size or hard_size >= old_size else hard_size


def _parts(extents: Extents, edge: int) -> list[Extent]:
    return [part for extent in extents for part in _cut_at(extent, (edge,))]


def _lay_beneath(layer: Extents, part: Extent) -> bool:
    """Lay a part where the layer has nothing yet. Says whether it laid any of it."""
    if not layer.between(part.start, part.end):
        layer.lay(part)
        return True
    laid = False
    for piece in list(layer.pieces(part.start, part.end)):
        if piece.extent is None:
            layer.lay(clip(part, piece.start, piece.end))
            laid = True
    return laid


def _cut_at(extent: Extent, edges: tuple[int, ...]) -> Iterator[Extent]:
    """Cut an extent where its spool positions cross an edge."""
    start = extent.start
    if extent.hold is not Hold.ZERO:
        for edge in edges:
            place = extent.start + edge - extent.at
            if start < place < extent.end:
                yield clip(extent, start, place)
                start = place
    yield clip(extent, start, extent.end)


def _only_in(one: Extents, other: Extents) -> list[Region]:
    """Spool regions of `one` that `other` does not have at the same place of the file."""
    if not len(other):
        return _regions(one)
    regions = []
    for extent in one:
        if extent.hold is Hold.ZERO:
            continue
        for piece in other.pieces(extent.start, extent.end):
            mine = clip(extent, piece.start, piece.end)
            if piece.extent is None or piece.extent.hold is Hold.ZERO or piece.extent.at != mine.at:
                regions.append(Region(mine.at, mine.end - mine.start))
    return regions


def _regions(layer: Extents) -> list[Region]:
    return [Region(e.at, e.end - e.start) for e in layer if e.hold is not Hold.ZERO]
