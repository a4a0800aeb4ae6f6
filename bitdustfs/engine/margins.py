"""Margins: how many more suppliers the worst block could lose, counted without holding up the loop.

It is a count over all blocks: more than a second for a million of them. So it is made in steps, and what changes
meanwhile may be in it or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from bitdustfs.model import NO_BLOCK, BlockNo, SupplierNo
from bitdustfs.ports import Catalog

STEP: Final = 2000  # blocks looked at in one go: 3 ms


async def least_margin(catalog: Catalog, answering: Iterable[SupplierNo], *, of_files: bool = False) -> int | None:
    """The least, over all blocks or those of files only, of held fragments at these suppliers minus k; None without
    a block."""
    suppliers, least = frozenset(answering), None
    at: BlockNo | None = NO_BLOCK if of_files else None
    while True:
        margin, at = catalog.least_margin(suppliers, at, STEP)
        if margin is None or at is None:
            return least
        least = margin if least is None else min(least, margin)
        await trio.lowlevel.checkpoint()
