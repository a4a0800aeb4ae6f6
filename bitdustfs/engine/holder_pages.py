"""Pages of what one supplier holds, for whoever goes through all of it."""

from __future__ import annotations

from collections.abc import Iterator

from bitdustfs.model import BlockNo, FragmentRow, FragmentState, SupplierNo
from bitdustfs.ports import Catalog


def holder_pages(
    catalog: Catalog, supplier: SupplierNo, state: FragmentState, limit: int
) -> Iterator[list[FragmentRow]]:
    """Go through the fragments at a supplier that are in that state, by block.

    A supplier may hold several fragments of a block. They come in one page, so that the next one can begin with the
    next block, whatever changes between two pages.

    Args:
        limit: rows of a page, but for the rest of its last block: at most 255 more.
    """
    start: BlockNo | None = None
    while page := list(catalog.fragments_at(supplier, state, limit, start)):
        last = page[-1].block
        if len(page) == limit:
            there = {row.index for row in page if row.block == last}
            rest = (row for row in catalog.fragments(last) if row.supplier == supplier and row.state is state)
            page += (row for row in rest if row.index not in there)
        yield page
        start = BlockNo(last + 1)
