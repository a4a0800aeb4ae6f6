"""Laid rows: what the map of a file has of its next version already, behind the end of the published one.

There nobody reads them. So the rows of a long stream are put as its blocks are placed, a few at a time, and it is
published by one more change of its inode, however long it is. Chunks that are written again are not laid any more,
whatever the map says; publishing puts their rows anew, and takes away what lies behind the end. A start takes all
away that a crash has left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from bitdustfs.model import BlockNo

LAID_MOST = 1 << 20  # chunk indexes from here on are not laid: each index below may take a byte of memory


class Laid:
    """Which chunks of one version are in the map already."""

    __slots__ = ("_marks", "blocks")

    def __init__(self) -> None:
        self._marks = bytearray()  # a byte for each chunk index, 1: laid
        self.blocks: dict[BlockNo, int] = {}  # where they lie -> how many fragments of it have to be held

    def __contains__(self, index: int) -> bool:
        return index < len(self._marks) and bool(self._marks[index])

    def add(self, index: int) -> None:
        """Note that a chunk is in the map. Its index is below LAID_MOST."""
        missing = index + 1 - len(self._marks)
        if missing > 0:
            self._marks.extend(bytes(missing))
        self._marks[index] = 1

    def discard(self, first: int, last: int) -> None:
        """Note that the chunks first … last are others now than the map says."""
        end = min(last + 1, len(self._marks))
        if first < end:
            self._marks[first:end] = bytes(end - first)

    def others(self, indexes: Sequence[int]) -> list[int]:
        """Those of some indexes, in order, that are not laid."""
        found: list[int] = []
        for first, end in self.gaps(0, indexes[-1] + 1) if indexes else ():
            found += indexes[bisect_left(indexes, first) : bisect_left(indexes, end)]
        return found

    def gaps(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The indexes in [first, end) that are not laid, as ranges [first, end)."""
        while first < end:
            gap = self._marks.find(0, first, end) if first < len(self._marks) else first
            if gap < 0:
                gap = min(end, len(self._marks))
            if gap == end:
                return
            first = self._marks.find(1, gap, end)
            if first < 0:
                first = end
            yield gap, first
