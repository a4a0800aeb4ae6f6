"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None)


def give_memory_back() -> None:
    """Have the C library return what is free to the system, where it can."""
    if hasattr(_LIBC, "malloc_trim"):  # glibc has it, musl does not
        _LIBC.malloc_trim(0)
