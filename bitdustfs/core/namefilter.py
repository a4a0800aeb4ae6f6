"""A set of fragment names that takes four bytes for each, whatever their number.

Names are keyed hashes, so their own bytes are as good as any hash of them: four parts of each name set four bits. A
name that was added is always found. One that was not is found by mistake about twice in ten thousand times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_PARTS: Final = 4
_PART_BYTES: Final = 8
_BITS_EACH: Final = 32


class NameFilter:
    """Names that are known, apart from few mistakes.

    Args:
        expected: how many there will be; with more there are more mistakes.
    """

    def __init__(self, expected: int) -> None:
        self._bits = max(8, _BITS_EACH * expected)
        self._field = bytearray(self._bits // 8 + 1)

    def add(self, names: Iterable[bytes]) -> None:
        """Take up names of 32 bytes."""
        for name in names:
            for place in self._places(name):
                self._field[place >> 3] |= 1 << (place & 7)

    def __contains__(self, name: bytes) -> bool:
        return all(self._field[place >> 3] & 1 << (place & 7) for place in self._places(name))

    def _places(self, name: bytes) -> list[int]:
        ends = range(_PART_BYTES, _PARTS * _PART_BYTES + 1, _PART_BYTES)
        return [int.from_bytes(name[end - _PART_BYTES : end]) % self._bits for end in ends]
