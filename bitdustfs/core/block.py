"""Blocks: sealed chunks one after another, padded, so that a supplier learns little from the length.

The padding is a key stream: zeros would show where the sealed bytes end.

A block is immutable and has no header: the catalog knows where each chunk lies. Padding follows Padmé (at most
12 % more, and the length tells only O(log log) bits), capped at the capacity of a full block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitdustfs.core.seal import BlockSeal
from bitdustfs.core.uncleared import uncleared
from bitdustfs.model import BLOCK_BYTES, SEAL_BYTES

MAX_SLOTS = 1024  # of a block of tiny chunks
MIN_BLOCK_BYTES = 4096  # smaller ones would tell the sizes of single small files


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a chunk lies in its block: `offset` and `length` in bytes, length of the plaintext."""

    slot: int
    offset: int
    length: int


def padded_length(length: int) -> int:
    """Return the length that `length` bytes are padded to.

    Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019,
    section 4.2 (Padmé).
    """
    if length <= MIN_BLOCK_BYTES:
        return MIN_BLOCK_BYTES
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return min((length + mask) & ~mask, max(BLOCK_BYTES, length))


def layout(lengths: Sequence[int]) -> tuple[tuple[Placed, ...], int]:
    """Lay out chunks of these plaintext lengths. Returns their places and the padded length of the block.

    Raises:
        ValueError: no chunk, an empty chunk, or more than a block holds.
    """
    places: list[Placed] = []
    offset = 0
    for slot, length in enumerate(lengths):
        if length <= 0:
            raise ValueError("a chunk has at least one byte")
        places.append(Placed(slot, offset, length))
        offset += length + SEAL_BYTES
    if not places or offset > BLOCK_BYTES:
        raise ValueError(f"a block holds 1 to {BLOCK_BYTES} sealed bytes, not {offset}")
    return tuple(places), padded_length(offset)


def fits(lengths: Sequence[int], more: int, *, most: int = MAX_SLOTS) -> bool:
    """Say whether one more chunk of `more` bytes fits. `most` bounds the slots."""
    return len(lengths) < most and sum(lengths) + more + (len(lengths) + 1) * SEAL_BYTES <= BLOCK_BYTES


def build(seal: BlockSeal, plaintexts: Sequence[bytes], *, k: int = 1) -> tuple[memoryview, tuple[Placed, ...]]:
    """Seal chunks and join them into a block. Returns the padded block and the place of each chunk.

    Args:
        k: the block gets zeros up to the next multiple of it, so that it is cut into k fragments without copying.
            They are not part of its length, which `layout` tells.
    """
    places, length = layout([len(p) for p in plaintexts])
    end = places[-1].offset + places[-1].length + SEAL_BYTES
    block = uncleared(-(-length // k) * k)
    block[end:length] = seal.padding(length - end)
    block[length:] = bytes(len(block) - length)
    for place, plaintext in zip(places, plaintexts, strict=True):
        seal.seal_into(place.slot, plaintext, block[place.offset : place.offset + place.length + SEAL_BYTES])
    return block, places


def part_of(pieces: Sequence[bytes | memoryview], at: int, length: int) -> bytes | memoryview:
    """Bytes [at, at + length) of pieces that follow one another: a view where they lie in one, else a copy.

    Raises:
        ValueError: the pieces end before.
    """
    parts, start, end = [], 0, at + length
    for piece in pieces:
        stop = start + len(piece)
        if at < stop and start < end:
            parts.append(memoryview(piece)[max(0, at - start) : end - start])
        start = stop
    if start < end:
        raise ValueError(f"{start} bytes have no part that ends at {end}")
    return parts[0] if len(parts) == 1 else b"".join(parts)
