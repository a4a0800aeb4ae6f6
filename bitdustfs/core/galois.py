"""Sums of products over GF(2^8) by ISA-L, where this machine has it: erasure coding twenty times as fast as zfec.

ISA-L's field is zfec's (polynomial 0x11d), so with zfec's coefficients it makes zfec's bytes. That is not taken on
trust: it must show it once before it is used, and what it cannot show is left to zfec. It is Intel's Intelligent
Storage Acceleration Library, Debian package libisal2; no format depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from cffi import FFI

from bitdustfs.core.uncleared import uncleared_array

FROM_BYTES: Final = 4096  # (tune) for shorter pieces the call costs more than zfec does
_LIBRARY: Final = "libisal.so.2"
_TABLE_BYTES: Final = 32  # for each coefficient
_POLYNOMIAL: Final = 0x11D
_PROOF: Final = (0, 1, 2, 0x1D, 0xFF)  # coefficients that are tried with every byte before it is used
_PROOF_PIECES: Final = 3
_PROOF_ROWS: Final = 8  # it has other routines for other numbers of sums, up to six at a time

_ffi: Final = FFI()
_ffi.cdef(
    """
    void ec_init_tables(int k, int rows, unsigned char *coefficients, unsigned char *tables);
    void ec_encode_data(int length, int k, int rows, unsigned char *tables,
                        unsigned char **pieces, unsigned char **sums);
    """
)


def sums_of_products(rows: Sequence[bytes], pieces: Sequence[bytes | memoryview]) -> tuple[memoryview, ...] | None:
    """Multiply a matrix with pieces: sum i is rows[i][0]·pieces[0] + rows[i][1]·pieces[1] + …, byte by byte.

    Args:
        rows: for each sum one coefficient, a byte, for each piece.
        pieces: all of one length.
    Returns:
        The sums, each as long as a piece. None: the machine has no ISA-L, or the pieces are too short for it.
    """
    library = _library()
    if library is None or not rows or len(pieces[0]) < FROM_BYTES:
        return None
    return _multiplied(library, tuple(rows), pieces)


def is_here() -> bool:
    """Say whether this machine has a library that calculates right."""
    return _library() is not None


def _multiplied(
    library: Any, rows: tuple[bytes, ...], pieces: Sequence[bytes | memoryview]
) -> tuple[memoryview, ...]:
    length = len(pieces[0])
    if any(len(piece) != length for piece in pieces) or any(len(row) != len(pieces) for row in rows):
        raise ValueError("the pieces differ in length, or a row does not have one coefficient for each")
    held = [_ffi.from_buffer("unsigned char[]", piece) for piece in pieces]  # they stay where they are meanwhile
    sums = [uncleared_array(length) for _ in rows]
    library.ec_encode_data(
        length,
        len(pieces),
        len(rows),
        _tables(library, rows),
        _ffi.new("unsigned char *[]", held),
        _ffi.new("unsigned char *[]", sums),
    )
    return tuple(memoryview(_ffi.buffer(each)).toreadonly() for each in sums)


@lru_cache(maxsize=64)
def _tables(library: Any, rows: tuple[bytes, ...]) -> Any:
    tables = _ffi.new("unsigned char[]", _TABLE_BYTES * sum(map(len, rows)))
    library.ec_init_tables(len(rows[0]), len(rows), b"".join(rows), tables)
    return tables


@lru_cache(maxsize=1)
def _library() -> Any:
    """The library, if it is there and calculates right; else None."""
    try:
        library = _ffi.dlopen(_LIBRARY)
        return library if _is_right(library) else None
    except (OSError, AttributeError):
        return None


def _is_right(library: Any) -> bool:
    """Say whether it makes the right sums, whatever their number."""
    every = bytes(range(256)) * 17
    pieces = [every[at : at - 5] for at in range(_PROOF_PIECES)]  # no whole number of any vector's width
    products = {by: bytes(_product(by, byte) for byte in range(256)) for by in _PROOF}
    for count in range(1, _PROOF_ROWS + 1):
        rows = tuple(
            bytes(_PROOF[(row + piece) % len(_PROOF)] for piece in range(_PROOF_PIECES)) for row in range(count)
        )
        for row, shown in zip(rows, _multiplied(library, rows, pieces), strict=True):
            right = 0
            for by, piece in zip(row, pieces, strict=True):
                right ^= int.from_bytes(piece.translate(products[by]))
            if int.from_bytes(shown) != right:
                return False
    return True


def _product(left: int, right: int) -> int:
    product = 0
    while right:
        product ^= left if right & 1 else 0
        left = left << 1 ^ (_POLYNOMIAL if left & 0x80 else 0)
        right >>= 1
    return product
