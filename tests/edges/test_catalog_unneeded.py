"""What the catalog says to be needed by nobody: chunks, blocks, releases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitdustfs.edges.catalog_fsck import CheckedCatalog
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    FIRST_BROUGHT,
    HOLE,
    BlockNo,
    ChunkNo,
    ChunkRow,
    Fingerprint,
    FragmentName,
    Ino,
    MapRow,
    Sparse,
    SupplierNo,
)
from tests.edges.catalog_rows import CODE, FILE, block, chunk, keep_generation

FIRST = ChunkNo(0)
ONE, TWO = SupplierNo(1), SupplierNo(2)


@pytest.fixture
def catalog() -> SqliteCatalog:
    """One file with chunks 1, 2 and a hole; chunk 3 is in no file. All lie in block 1."""
    made = SqliteCatalog(":memory:")
    made.put_inode(FILE)
    made.put_block(block(made.new_block_no()))
    made.put_chunks([chunk(made.new_chunk_no(), slot=slot) for slot in range(3)])
    rows = [MapRow(0, 1, ChunkNo(1)), MapRow(1, 1, ChunkNo(2)), MapRow(2, 9, HOLE)]
    made.replace_map(FILE.ino, rows, first=0, last=10)
    made.commit()
    return made


def live(catalog: SqliteCatalog, number: int = 1) -> object:
    return catalog.connection.execute("SELECT live FROM r_block WHERE block = ?", (number,)).fetchall()[0][0]


def name(number: int) -> FragmentName:
    return FragmentName(bytes([number]) * 32)


def test_chunk_that_no_map_ever_named_is_found_among_the_new_ones(catalog: SqliteCatalog) -> None:
    assert catalog.last_chunk_no() == 3
    catalog.note_loose_chunks(FIRST, ChunkNo(2))
    assert catalog.loose_chunks(FIRST, 9) == []
    catalog.note_loose_chunks(ChunkNo(2), ChunkNo(3))
    assert catalog.loose_chunks(FIRST, 9) == [(3, False)]


def test_chunk_that_came_with_another_line_is_found_among_the_new_ones(catalog: SqliteCatalog) -> None:
    brought = catalog.new_chunk_no(is_brought=True)
    catalog.put_chunks([ChunkRow(brought, Fingerprint(b"b" * 32), BlockNo(1), 4, 0, 1)])
    catalog.note_loose_chunks(ChunkNo(3), catalog.last_chunk_no())
    assert catalog.loose_chunks(ChunkNo(3), 9) == [(brought, False)]
    assert brought == FIRST_BROUGHT + catalog.last_chunk_no()


def test_chunk_that_is_overwritten_or_dropped_with_its_file_is_loose(catalog: SqliteCatalog) -> None:
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(3))], first=0, last=0)
    assert catalog.loose_chunks(FIRST, 9) == [(1, False)]
    catalog.drop_inode(FILE.ino)
    assert catalog.loose_chunks(FIRST, 9) == [(1, False), (2, False), (3, False)]
    assert catalog.loose_chunks(ChunkNo(1), 1) == [(2, False)]


def test_chunk_of_two_files_is_needed_until_both_are_gone(catalog: SqliteCatalog) -> None:
    catalog.replace_map(Ino(8), [MapRow(5, 1, ChunkNo(1))], first=5, last=5)
    catalog.drop_inode(FILE.ino)
    assert catalog.loose_chunks(FIRST, 9) == [(1, True), (2, False)]
    catalog.settle_chunks([ChunkNo(1)])
    assert catalog.loose_chunks(FIRST, 9) == [(2, False)]
    catalog.drop_inode(Ino(8))
    assert catalog.loose_chunks(FIRST, 9) == [(1, False), (2, False)]


def test_chunk_that_an_older_generation_names_is_needed(catalog: SqliteCatalog) -> None:
    keep_generation(catalog)
    catalog.drop_inode(FILE.ino)
    assert catalog.loose_chunks(FIRST, 9) == [(1, True), (2, True)]


def test_live_bytes_of_a_block_follow_its_chunks(catalog: SqliteCatalog) -> None:
    catalog.put_block(block(catalog.new_block_no()))
    assert [live(catalog), live(catalog, 2)] == [3 * 4096, 0]
    catalog.put_chunks([replace(chunk(catalog.new_chunk_no(), slot=2))])  # another chunk in the same place
    assert live(catalog) == 3 * 4096
    catalog.put_chunks([chunk(1, block=2)])
    assert [live(catalog), live(catalog, 2)] == [2 * 4096, 4096]
    catalog.drop_chunks([ChunkNo(1), ChunkNo(2)])
    assert [live(catalog), live(catalog, 2)] == [4096, 0]
    assert catalog.chunk(ChunkNo(1)) is None


def test_dead_sparse_and_small_blocks_are_found(catalog: SqliteCatalog) -> None:
    for number in (2, 3):
        catalog.put_block(block(catalog.new_block_no()))
        catalog.put_chunks([chunk(catalog.new_chunk_no(), block=number)])
    catalog.drop_chunks([ChunkNo(4)])
    assert catalog.dead_blocks(9, BlockNo(0)) == [2]
    assert catalog.dead_blocks(9, BlockNo(2)) == []
    assert catalog.sparse_blocks(9, BlockNo(0)) == [Sparse(BlockNo(3), CODE, 4096, 12288)]
    assert [each.block for each in catalog.small_blocks(9)] == [3, 1]


def test_release_waits_for_the_latest_change_that_it_was_noted_with(catalog: SqliteCatalog) -> None:
    catalog.put_releases([(ONE, name(1)), (ONE, name(2)), (TWO, name(1))], 7)
    catalog.put_releases([(ONE, name(1))], 0)
    catalog.put_releases([(ONE, name(2))], 9)
    assert catalog.releases(ONE, 6, 9) == []
    assert catalog.releases(ONE, 7, 9) == [name(1)]
    assert catalog.releases(ONE, 9, 9) == [name(1), name(2)]
    assert catalog.releases(ONE, 9, 1) == [name(1)]
    catalog.drop_releases(ONE, [name(1)])
    assert catalog.count_releases() == {ONE: 1, TWO: 1}
    assert not catalog.is_releasing(ONE, name(1))
    assert catalog.is_releasing(TWO, name(1))


def test_live_bytes_that_are_counted_wrong_are_found_and_mended() -> None:
    made = CheckedCatalog(":memory:")
    made.put_block(block(made.new_block_no()))
    made.put_chunks([chunk(made.new_chunk_no(), slot=slot) for slot in range(3)])
    made.connection.execute("UPDATE r_block SET live = 0")
    assert "blocks count their live bytes wrong" in {finding.says for finding in made.findings()}
    made.mend(0)
    assert live(made) == 3 * 4096
    assert "blocks count their live bytes wrong" not in {finding.says for finding in made.findings()}
