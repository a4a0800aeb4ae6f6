"""What the catalog tells of blocks that lack fragments, of their bytes, and of what was changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from bitdustfs.edges.catalog_outbox import Touched
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import BlockNo, ChunkNo, Code, FragmentState, Ino, MapRow, Shortfall, SupplierNo
from tests.edges.catalog_rows import FILE, block, chunk, fragment


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    with closing(SqliteCatalog(":memory:", create=True)) as opened:
        yield opened


def test_shortfalls_are_of_the_blocks_that_are_asked_for_and_lack_something(catalog: SqliteCatalog) -> None:
    for number, held in ((1, 4), (2, 5), (3, 2), (-1, 3)):
        catalog.put_block(replace(block(abs(number), Code(3, 5)), block=BlockNo(number)))
        for index in range(held):
            catalog.put_fragment(fragment(number, index, index + 1))
    length = block(1).length
    found = {each.block: each for each in catalog.shortfalls(map(BlockNo, (1, 2, -1, 77)))}
    assert found == {
        BlockNo(1): Shortfall(BlockNo(1), Code(3, 5), 4, length),
        BlockNo(-1): Shortfall(BlockNo(-1), Code(3, 5), 3, length),
    }


def test_bytes_in_a_block_count_once_for_each_file_that_has_them_now(catalog: SqliteCatalog) -> None:
    catalog.put_block(block(1))
    catalog.put_block(block(2))
    catalog.put_chunks([replace(chunk(1, 1, 0), length=100), chunk(2, 1, 1), replace(chunk(3, 2, 0), length=7)])
    for ino, at, number in ((7, 0, 1), (8, 0, 1), (8, 1, 3)):
        catalog.replace_map(Ino(ino), [MapRow(at, 1, ChunkNo(number))], first=at, last=at)
    assert catalog.file_bytes_in([BlockNo(1)]) == 200  # nobody has the second one
    assert catalog.file_bytes_in([BlockNo(1), BlockNo(2)]) == 207
    assert catalog.file_bytes_in([]) == 0


def test_suppliers_that_hold_something_are_told_apart(catalog: SqliteCatalog) -> None:
    held, absent = FragmentState.HELD, FragmentState.ABSENT
    for number, supplier, state in ((1, 1, absent), (1, 2, held), (-1, 4, held)):
        catalog.put_fragment(fragment(number, supplier, supplier, state))
    assert catalog.holding(map(SupplierNo, (4, 3, 1, 2))) == [2, 4]
    assert catalog.holding([]) == []


def test_what_was_changed_since_a_change_is_told_and_when_that_is_not_known(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    catalog.commit()
    first = catalog.last_change
    catalog.put_inode(replace(FILE, size=1))
    assert catalog.changed_since(first, 10) == [FILE.ino]  # by the open transaction
    touched = Touched(5)
    assert touched.since(4, 10) is None  # before the start: it may be anything
    for number in (6, 7, 8):
        touched.add(Ino(number))
        touched.committed(number)
    assert touched.since(6, 10) == [7, 8]
    assert touched.since(5, 2) is None  # too many
    touched.forget(6)
    assert touched.since(6, 10) == [7, 8]
