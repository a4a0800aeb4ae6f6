"""Endangered blocks: those that too few suppliers hold. The local copies of their chunks are kept until that is over.

A degraded block can be read, and one or two more losses end that. The copy in the spool costs nothing and saves it.
"""

from __future__ import annotations

from collections.abc import Callable

from bitdustfs.model import HOLE, BlockNo, Ino
from bitdustfs.ports import Catalog

Needed = Callable[[Ino, int], bool]


def needed_chunks(catalog: Catalog) -> Needed | None:
    """Tell which published chunks (inode, index) lie in blocks with fewer than W held fragments.

    Returns:
        What says so of one chunk, good until the next await; None: there is no such block.
    """
    worst = catalog.wanting_blocks(1)
    if not worst or worst[0].spare >= max((code.quorum - code.k for code in catalog.codes()), default=0):
        return None
    known: dict[BlockNo, bool] = {}

    def is_endangered(number: BlockNo) -> bool:
        if number not in known:
            block = catalog.block(number)
            known[number] = block is not None and catalog.held(number) < block.code.quorum
        return known[number]

    def is_needed(ino: Ino, index: int) -> bool:
        rows = catalog.map_rows(ino, index, index)
        chunk = catalog.chunk(rows[0].chunk) if rows and rows[0].chunk != HOLE else None
        return chunk is not None and is_endangered(chunk.block)

    return is_needed
