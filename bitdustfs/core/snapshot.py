"""Which chunks of a catalog image must be sent, and where all of them lie in the end.

An image of a million files has 20 000 chunks: what walks through all of them is here, so that a worker can do it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from bitdustfs.model import BlockNo, ImageChunk


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the chunks of an image lie.

    Attributes:
        order: for each chunk which of `blocks`, the slot there, bytes from the start of the block, and its length.
        blocks: with how many bytes of each are needed, the newest first.
    """

    order: tuple[tuple[int, int, int, int], ...]
    blocks: tuple[tuple[BlockNo, int], ...]


def to_send(prints: Iterable[bytes], known: Collection[bytes]) -> list[tuple[bytes, int]]:
    """The chunks that lie nowhere yet, each once: print and index, in order.

    Args:
        prints: of all chunks, in order.
        known: of those that need not be sent.
    """
    first: dict[bytes, int] = {}
    for index, each in enumerate(prints):
        if each not in known:
            first.setdefault(each, index)
    return list(first.items())


def lying_in(found: Mapping[bytes, ImageChunk], blocks: Set[BlockNo]) -> dict[bytes, ImageChunk]:
    """Those of the chunks that lie in one of these blocks."""
    return {print_: row for print_, row in found.items() if row.block in blocks}


def layout(prints: Sequence[bytes], known: Mapping[bytes, ImageChunk]) -> Layout:
    """Lay out an image of which all chunks lie somewhere.

    Args:
        known: where each of `prints` lies, and nothing else.
    """
    needed: Counter[BlockNo] = Counter()
    for row in known.values():
        needed[row.block] += row.length
    blocks = tuple(sorted(needed.items(), reverse=True))
    turn = {block: index for index, (block, _) in enumerate(blocks)}
    places = {print_: (turn[row.block], row.slot, row.offset, row.length) for print_, row in known.items()}
    return Layout(tuple(places[each] for each in prints), blocks)
