"""Check sums of spool bytes."""

from __future__ import annotations

from bitdustfs.core.sums import SUM_BYTES, sums_of
from bitdustfs.model import SUM_UNIT_BYTES


def test_each_unit_has_its_own_sum() -> None:
    first, second, rest = b"a" * SUM_UNIT_BYTES, b"b" * SUM_UNIT_BYTES, b"c"

    assert sums_of(first + second + rest) == sums_of(first) + sums_of(second) + sums_of(rest)
    assert len(sums_of(first + second + rest)) == 3 * SUM_BYTES
    assert sums_of(memoryview(first + second)) == sums_of(first + second)
    assert sums_of(b"") == b""


def test_sums_are_those_of_the_catalog_format() -> None:
    """XXH3 of 64 bits without a seed, as its specification has it: catalogs keep them."""
    assert sums_of(b"bitdustfs").hex() == "3045bc84efb3691f"
    assert sums_of(bytes(SUM_UNIT_BYTES)).hex() == "b7ce04b81707a4d0"


def test_a_flipped_bit_shows_wherever_it_is() -> None:
    content = bytes(range(256)) * (SUM_UNIT_BYTES // 256)
    good = sums_of(content)

    for at in (0, 1, 4095, SUM_UNIT_BYTES - 1):
        bad = bytearray(content)
        bad[at] ^= 1
        assert sums_of(bytes(bad)) != good
