"""What ISA-L makes is what zfec makes, byte for byte; and without ISA-L nothing is missing."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import zfec

from bitdustfs.core import erasure, galois
from bitdustfs.model import Code

CODES = [Code(1, 2), Code(2, 4), Code(3, 5), Code(4, 12), Code(8, 24)]
LENGTHS = [galois.FROM_BYTES, galois.FROM_BYTES + 1, galois.FROM_BYTES + 31, 65_539]

needs_isal = pytest.mark.skipif(not galois.is_here(), reason="this machine has no libisal2")


def block_of(code: Code, length: int) -> bytes:
    return random.Random(length).randbytes(code.k * length)


@needs_isal
@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_fragment_is_zfecs(code: Code, length: int) -> None:
    block = block_of(code, length)
    expected = zfec.Encoder(code.k, code.n).encode(erasure.primaries(block, code.k))
    assert [bytes(each) for each in erasure.encode(block, code)] == [bytes(each) for each in expected]


@needs_isal
def test_every_three_of_five_restore_what_zfec_restores() -> None:
    block = block_of(Code(3, 5), LENGTHS[2])
    made = erasure.encode(block, Code(3, 5))
    for kept in itertools.combinations(range(5), 3):
        restored = erasure.decode({i: made[i] for i in kept}, 3)
        assert b"".join(restored) == block, kept


@needs_isal
def test_eight_of_twenty_four_restore_without_one_primary() -> None:
    block = block_of(Code(8, 24), LENGTHS[0])
    made = erasure.encode(block, Code(8, 24))
    assert b"".join(erasure.decode({i: made[i] for i in range(13, 21)}, 8)) == block


@needs_isal
def test_sum_is_the_one_of_the_field() -> None:
    left, right = bytes([0x80, 0x53]) * 2048, bytes([0x01, 0xCA]) * 2048
    (made,) = galois.sums_of_products([b"\x02\x03"], [left, right]) or ()
    # in GF(2^8) with 0x11d: 2·0x80 + 3·1 = 0x1d + 3; 2·0x53 + 3·0xca = 0xa6 + (0x89 + 0xca)
    assert made == bytes([0x1E, 0xA6 ^ 0x89 ^ 0xCA]) * 2048


@needs_isal
def test_pieces_that_do_not_fit_together_are_refused() -> None:
    piece = bytes(galois.FROM_BYTES)
    with pytest.raises(ValueError, match="differ in length"):
        galois.sums_of_products([b"\1\1"], [piece, piece + b"x"])
    with pytest.raises(ValueError, match="one coefficient"):
        galois.sums_of_products([b"\1"], [piece, piece])


def test_short_pieces_are_left_to_zfec() -> None:
    assert galois.sums_of_products([b"\1"], [bytes(galois.FROM_BYTES - 1)]) is None


@needs_isal
def test_library_that_is_wrong_for_one_number_of_sums_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = galois._ffi.dlopen

    class Spoilt:
        def __init__(self, name: str) -> None:
            self._real = opened(name)
            self.ec_init_tables = self._real.ec_init_tables

        def ec_encode_data(self, length: int, k: int, rows: int, tables: Any, pieces: Any, sums: Any) -> None:
            self._real.ec_encode_data(length, k, rows, tables, pieces, sums)
            if rows == 6:
                sums[5][length - 1] ^= 1

    monkeypatch.setattr(galois._ffi, "dlopen", Spoilt)
    galois._library.cache_clear()
    try:
        assert not galois.is_here()
    finally:
        galois._library.cache_clear()
