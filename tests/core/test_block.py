"""Blocks: where chunks lie, and what the length tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.block import MIN_BLOCK_BYTES, Placed, build, fits, layout, padded_length, part_of
from bitdustfs.core.seal import BlockSeal
from bitdustfs.core.uncleared import uncleared
from bitdustfs.model import BLOCK_BYTES, BLOCK_CHUNKS, CHUNK_BYTES, SEAL_BYTES, BlockId, Suite

SEAL = BlockSeal(b"v" * 32, b"i" * 16, 1, BlockId(b"b" * 32), Suite.AES_256_GCM)


@pytest.mark.parametrize(
    ("length", "padded"),
    [(1, 4096), (4096, 4096), (4097, 4352), (5000, 5120), (10**5, 100352), (10**6, 1015808), (BLOCK_BYTES,) * 2],
)
def test_padding_is_that_of_the_manual(length: int, padded: int) -> None:
    assert padded_length(length) == padded


@given(st.integers(1, BLOCK_BYTES))
def test_padding_costs_at_most_12_percent_and_stays_in_a_block(length: int) -> None:
    padded = padded_length(length)
    assert length <= padded <= BLOCK_BYTES
    assert padded == MIN_BLOCK_BYTES or padded <= length * 1.12
    assert padded_length(padded) == padded


@given(st.integers(1, BLOCK_BYTES - 1))
def test_padding_never_shrinks_as_the_length_grows(length: int) -> None:
    assert padded_length(length) <= padded_length(length + 1)


def test_lengths_of_blocks_tell_little() -> None:
    assert len({padded_length(length) for length in range(1, BLOCK_BYTES, 97)}) < 300


@given(st.lists(st.integers(1, CHUNK_BYTES), min_size=1, max_size=BLOCK_CHUNKS))
def test_chunks_lie_one_after_another_with_room_for_their_tags(lengths: list[int]) -> None:
    places, length = layout(lengths)
    at = 0
    for slot, place in enumerate(places):
        assert place == Placed(slot, at, lengths[slot])
        at += lengths[slot] + SEAL_BYTES
    assert length == padded_length(at)


def test_block_of_no_chunk_of_an_empty_chunk_or_of_too_much_is_refused() -> None:
    for lengths in ([], [1, 0], [CHUNK_BYTES] * BLOCK_CHUNKS + [1]):
        with pytest.raises(ValueError, match=r"at least one byte|1 to \d+ sealed bytes"):
            layout(lengths)


def test_full_chunks_fill_a_block_exactly() -> None:
    assert fits([CHUNK_BYTES] * (BLOCK_CHUNKS - 1), CHUNK_BYTES)
    assert not fits([CHUNK_BYTES] * BLOCK_CHUNKS, 1)
    assert layout([CHUNK_BYTES] * BLOCK_CHUNKS)[1] == BLOCK_BYTES


@given(st.lists(st.integers(1, CHUNK_BYTES), max_size=40), st.integers(1, CHUNK_BYTES))
def test_what_fits_can_be_laid_out(lengths: list[int], more: int) -> None:
    taken: list[int] = []
    for length in lengths:
        if fits(taken, length):
            taken.append(length)
    if fits(taken, more):
        assert layout([*taken, more])[1] <= BLOCK_BYTES


def test_slots_of_a_block_of_tiny_chunks_are_bounded() -> None:
    assert fits([1] * 99, 1, most=100)
    assert not fits([1] * 100, 1, most=100)


@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=5))
def test_built_block_gives_every_chunk_back(plaintexts: list[bytes]) -> None:
    block, places = build(SEAL, plaintexts)
    assert len(block) == padded_length(sum(map(len, plaintexts)) + SEAL_BYTES * len(plaintexts))
    got = [SEAL.unseal(p.slot, bytes(block[p.offset : p.offset + p.length + SEAL_BYTES])) for p in places]
    assert got == plaintexts


def test_what_lay_in_memory_before_is_nowhere_in_a_block() -> None:
    for _ in range(20):
        before = [uncleared(MIN_BLOCK_BYTES + 2) for _ in range(20)]
        for each in before:
            each[:] = b"\xff" * len(each)
        del each, before
        block, places = build(SEAL, [b"letter"], k=3)

        end = places[-1].offset + places[-1].length + SEAL_BYTES
        assert bytes(block[end:MIN_BLOCK_BYTES]) == SEAL.padding(MIN_BLOCK_BYTES - end)
        assert bytes(block[MIN_BLOCK_BYTES:]) == b"\0\0"


@given(st.lists(st.binary(max_size=9), max_size=5), st.integers(0, 50), st.integers(1, 50))
def test_part_of_pieces_is_that_of_the_whole(pieces: list[bytes], at: int, length: int) -> None:
    whole = b"".join(pieces)
    if at + length > len(whole):
        with pytest.raises(ValueError, match="have no part"):
            part_of(pieces, at, length)
    else:
        assert part_of(pieces, at, length) == whole[at : at + length]


def test_part_that_lies_in_one_piece_is_not_copied() -> None:
    pieces = [bytearray(8), bytearray(8)]
    part = part_of([memoryview(piece) for piece in pieces], 9, 4)
    pieces[1][1] = 7
    assert bytes(part) == b"\7\0\0\0"
