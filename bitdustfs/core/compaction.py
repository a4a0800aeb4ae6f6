"""Compaction: which blocks to write anew, so that dead bytes are freed and small blocks become few.

A block that is mostly dead costs its suppliers more than it is worth; many small ones cost them a file each, and us
a row and a name for each of their fragments. Both are mended by writing live chunks into a new block. That is worth
its traffic if it frees a quarter of the bytes, or makes one block of many of about one size: then each chunk is
written again only a few times in its life, however often small files come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from bitdustfs.core.block import fits, layout
from bitdustfs.model import BlockNo, Sparse

MERGE_RUN: Final = 8  # (tune) so many small blocks of about one size become one
FREED_SHARE: Final = 4  # (tune) of the bytes of the old blocks, the part that must become free
_SIZE_BITS: Final = 3  # sizes in one class differ by a factor of eight


def mergeable(small: Iterable[Sparse]) -> list[list[Sparse]]:
    """Groups of at least MERGE_RUN blocks with one code and about one size, smallest first."""
    ordered = sorted(small, key=lambda each: (*_kind(each), each.block))
    groups = [list(group) for _kind_, group in groupby(ordered, key=_kind)]
    return [group for group in groups if len(group) >= MERGE_RUN]


def fill(lengths: Sequence[tuple[BlockNo, Sequence[int]]]) -> int:
    """How many of these blocks, from the first on, have room in one new block.

    Args:
        lengths: of each block the plaintext lengths of its live chunks, in bytes.
    """
    taken: list[int] = []
    for count, (_block, chunks) in enumerate(lengths):
        for length in chunks:
            if not fits(taken, length):
                return count
            taken.append(length)
    return len(lengths)


def is_worth_it(old_bytes: Sequence[int], lengths: Sequence[int]) -> bool:
    """Say whether a new block with chunks of these lengths should take the place of blocks with these lengths.

    Args:
        old_bytes: lengths of the old blocks with padding.
        lengths: of the plaintexts of the live chunks; at least one, and as many as fit.
    """
    new_bytes = layout(lengths)[1]
    frees = FREED_SHARE * new_bytes <= (FREED_SHARE - 1) * sum(old_bytes)
    return frees or (len(old_bytes) >= MERGE_RUN and new_bytes <= sum(old_bytes))


def _kind(each: Sparse) -> tuple[int, int, int]:
    return each.code.k, each.code.n, each.live_bytes.bit_length() // _SIZE_BITS
