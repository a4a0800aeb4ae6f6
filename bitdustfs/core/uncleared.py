"""Memory that is not cleared first, for buffers of which each byte is written before it is read.

A `bytearray` is filled with zeros before its maker gets it: of blocks and bodies that was 2 % of an upload's
processor time, and while a worker did it nobody else could run Python.

Large buffers come and go all the time, between small things that stay: a heap that holds both grows to twice what is
in use. So each has pages of its own. The kernel clears new ones, which costs more than sealing what is put there, so
some are kept for the next buffer. A buffer comes back when nothing refers to it any more, not when somebody says so.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from itertools import count as numbers
from types import MappingProxyType
from typing import Any, Final

from cffi import FFI

PAGES_FROM_BYTES: Final = 1024 * 1024  # smaller ones come from the heap
KEPT_BYTES: Final = 32 * 1024 * 1024  # (tune) of pages that nobody uses: those of two blocks of code 3/5
_SIZES: Final = tuple(quarters << power for power in range(18, 22) for quarters in (4, 5, 6, 7))  # 1 to 14 MiB

_ffi: Final = FFI()


class Pages:
    """Buffers with pages of their own, some of which are kept. Any thread may take one, or let it go."""

    def __init__(self, kept_bytes: int) -> None:
        self._most = kept_bytes
        # Every step is one that no other thread can get into, and the collector of garbage may let a buffer go within
        # any of them: so there is no lock, and no size comes or goes.
        self._kept: Mapping[int, list[Any]] = MappingProxyType({size: [] for size in _SIZES})
        self._taken_at = dict.fromkeys(_SIZES, 0)
        self._turn = numbers(1)
        self.new = _ffi.new_allocator(self._take, self._give, should_clear_after_alloc=False)

    @property
    def kept_bytes(self) -> int:
        """How much nobody uses."""
        return sum(size * len(kept) for size, kept in self._kept.items())

    def _take(self, count: int) -> Any:
        size = next((each for each in _SIZES if each >= count), count)
        if size not in self._kept:
            return _mapped(size)
        self._taken_at[size] = next(self._turn)
        try:
            return self._kept[size].pop()
        except IndexError:
            return _mapped(size)

    def _give(self, pages: Any) -> None:
        size = _ffi.sizeof(pages)
        if size not in self._kept:
            return
        self._kept[size].append(pages)
        while self.kept_bytes > self._most:
            self._drop_one()

    def _drop_one(self) -> None:
        """Unmap one of the size that was wanted least recently."""
        for size in sorted(_SIZES, key=self._taken_at.__getitem__):
            try:
                self._kept[size].pop()
                return
            except IndexError:
                continue


_heap: Final = _ffi.new_allocator(should_clear_after_alloc=False)
_pages: Final = Pages(KEPT_BYTES)


def uncleared_array(count: int) -> Any:
    """The same as `unsigned char[]` of cffi."""
    return (_heap if count < PAGES_FROM_BYTES else _pages.new)("unsigned char[]", count)


def uncleared(count: int) -> memoryview:
    """Room for `count` bytes, with whatever was there before: show nobody what was not written since."""
    return memoryview(_ffi.buffer(uncleared_array(count)))


def _mapped(size: int) -> Any:
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return _ffi.from_buffer("char[]", mapping)  # it goes with the last reference
