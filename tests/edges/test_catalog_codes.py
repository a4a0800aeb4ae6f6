"""What the files in a block wish, as the catalog tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from bitdustfs.edges import catalog_codes
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import BlockNo, ChunkNo, Code, Ino, MapRow
from tests.edges.catalog_rows import block, chunk, file


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    with closing(SqliteCatalog(":memory:", create=True)) as opened:
        yield opened


def put_file(catalog: SqliteCatalog, ino: int, code: Code | None, *chunks: int) -> None:
    """A file that consists of these chunks."""
    catalog.put_inode(file(ino, code=code))
    rows = [MapRow(index, 1, ChunkNo(number)) for index, number in enumerate(chunks)]
    catalog.replace_map(Ino(ino), rows, first=0, last=len(rows) - 1)


@pytest.mark.parametrize("most", [catalog_codes.WISHES_MOST, 8], ids=["one statement", "very many files"])
def test_chunks_of_a_block_are_told_with_the_codes_of_their_files(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    few = catalog_codes._WISHES_OF_FEW.replace(str(catalog_codes.WISHES_MOST), str(most))
    monkeypatch.setattr(catalog_codes, "WISHES_MOST", most)
    monkeypatch.setattr(catalog_codes, "_WISHES_OF_FEW", few)
    catalog.put_block(block(1))
    catalog.put_block(block(2))
    catalog.put_chunks([chunk(1), chunk(2, slot=1), chunk(3, slot=2), chunk(4, slot=3), chunk(5, block=2)])
    put_file(catalog, 11, Code(2, 4), 1, 2, 1)
    put_file(catalog, 12, None, 1)
    put_file(catalog, 13, Code(1, 3), 2, 5)
    put_file(catalog, 14, None, 4)
    put_file(catalog, 15, None, 4)
    put_file(catalog, 16, Code(2, 5), 1)
    catalog.drop_inode(Ino(16))
    told = dict(catalog.wishes(BlockNo(1)))
    assert told == {
        1: {Code(2, 4), None},
        2: {Code(2, 4), Code(1, 3)},
        3: frozenset(),
        4: {None},
    }
    assert list(told) == [1, 2, 3, 4]
    assert not catalog.wishes(BlockNo(3))
