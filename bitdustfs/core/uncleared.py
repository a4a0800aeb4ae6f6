"""Memory that is not cleared first, for buffers of which each byte is written before it is read.

A `bytearray` is filled with zeros before its maker gets it: of blocks and bodies that was 2 % of an upload's
processor time, and while a worker did it nobody else could run Python.
"""

from __future__ import annotations

from typing import Final

from cffi import FFI

_ffi: Final = FFI()
_new: Final = _ffi.new_allocator(should_clear_after_alloc=False)


def uncleared(count: int) -> memoryview:
    """Room for `count` bytes, with whatever was there before: show nobody what was not written since."""
    return memoryview(_ffi.buffer(_new("unsigned char[]", count)))
