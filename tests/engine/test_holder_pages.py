"""Whoever goes through what a supplier holds meets each of its fragments once, however the pages fall."""

from __future__ import annotations

import pytest

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.model import FragmentState, SupplierNo
from tests.edges.catalog_rows import SUPPLIER, block, fragment

ONE = SupplierNo(1)
HELD = {1: [0], 2: [1, 2, 4], 3: [], 4: [0, 1], 7: [3]}  # block: its fragments at the supplier


@pytest.mark.parametrize("limit", range(1, 10))
def test_fragment_is_met_once_whatever_the_size_of_pages(limit: int) -> None:
    catalog = SqliteCatalog(":memory:", create=True)
    catalog.put_supplier(SUPPLIER)
    for number, indices in HELD.items():
        catalog.put_block(block(number))
        catalog.put_fragment(fragment(number, 0, 2))
        catalog.put_fragment(fragment(number, 3, 1, FragmentState.LOST))
        for index in indices:
            catalog.put_fragment(fragment(number, index))
    pages = list(holder_pages(catalog, ONE, FragmentState.HELD, limit))
    assert [(row.block, row.index) for page in pages for row in page] == [
        (number, index) for number, indices in HELD.items() for index in indices
    ]
    ends = [page[-1].block for page in pages]
    assert len(set(ends)) == len(ends)


def test_what_is_dropped_or_comes_between_two_pages_hides_nothing_else() -> None:
    catalog = SqliteCatalog(":memory:", create=True)
    catalog.put_supplier(SUPPLIER)
    for number in range(1, 6):
        catalog.put_block(block(number))
        catalog.put_fragment(fragment(number, 0))
    met = []
    for page in holder_pages(catalog, ONE, FragmentState.HELD, 2):
        met += [row.block for row in page]
        catalog.drop_fragment(page[0].block, 0, ONE)
        catalog.put_fragment(fragment(page[0].block, 1))
    assert met == [1, 2, 3, 4, 5]
