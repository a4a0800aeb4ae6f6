"""A tally of small counts for many numbers that lie close together: kernel lookup counts by inode.

A dictionary takes about 100 bytes for each inode that the kernel knows, which is without bound where a person walks
through millions of files. Inode numbers are given out in sequence, so pages of plain 32-bit counts take 4 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_PAGE = 256  # counts in a page: 1 KiB, small enough that a lone inode costs little
_EMPTY = array("I", bytes(4 * _PAGE))
_MOST = 0xFFFFFFFF


class Tally:
    """Counts that start at 0, for numbers >= 0. Pages of zeros take no memory."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}
        self._used: dict[int, int] = {}  # page -> how many of its counts are not 0

    def __contains__(self, number: int) -> bool:
        return self[number] > 0

    def __getitem__(self, number: int) -> int:
        page = self._pages.get(number // _PAGE)
        return page[number % _PAGE] if page is not None else 0

    def __iter__(self) -> Iterator[int]:
        """The numbers with a count above 0. The tally may change meanwhile."""
        for key in sorted(self._pages):
            page = self._pages.get(key)
            if page is not None:
                yield from [key * _PAGE + i for i, count in enumerate(page) if count]

    def add(self, number: int, count: int = 1) -> None:
        """Count `number` up."""
        key, place = divmod(number, _PAGE)
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = _EMPTY[:]
            self._used[key] = 0
        if page[place] == 0:
            self._used[key] += 1
        page[place] = min(_MOST, page[place] + count)

    def subtract(self, number: int, count: int) -> int:
        """Count `number` down, not below 0. Returns what is left."""
        key, place = divmod(number, _PAGE)
        page = self._pages.get(key)
        if page is None or page[place] == 0:
            return 0
        page[place] = left = max(0, page[place] - count)
        if left == 0:
            self._used[key] -= 1
            if self._used[key] == 0:
                del self._pages[key], self._used[key]
        return left

    def clear(self) -> None:
        """Set all counts to 0."""
        self._pages.clear()
        self._used.clear()
