"""Recency: which files were used last, so that the cache lets go of those that nobody wanted for longest.

Only the last `RECENT_FILES` are remembered, in memory: a read must not cost a write. All others were used longer ago
than these, or before this process began; they go first, in the order of their numbers.
"""

from __future__ import annotations

from collections import OrderedDict

from bitdustfs.model import Ino

RECENT_FILES = 32768  # (tune) some MiB; with fewer cached files the order is exact


class Recency:
    """An order of files by their last use."""

    def __init__(self, most: int = RECENT_FILES) -> None:
        self._most = most
        self._order: OrderedDict[Ino, None] = OrderedDict()  # least recently used first
        self.overflowed = False  # a file fell out since somebody set this to False

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, ino: Ino) -> bool:
        return ino in self._order

    def used(self, ino: Ino) -> None:
        """Note a use of now."""
        self._order[ino] = None
        self._order.move_to_end(ino)
        if len(self._order) > self._most:
            self._order.popitem(last=False)
            self.overflowed = True

    def forget(self, ino: Ino) -> None:
        """The spool holds nothing of it any more."""
        self._order.pop(ino, None)

    def oldest(self, count: int) -> list[Ino]:
        """Up to `count` remembered files, least recently used first."""
        return [ino for ino, _ in zip(self._order, range(count), strict=False)]
