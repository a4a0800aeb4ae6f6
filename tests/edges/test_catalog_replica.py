"""Local blocks, and what else the catalog keeps about its own way to the suppliers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    BlockNo,
    BlockRow,
    ChunkNo,
    Code,
    DeltaRow,
    Fingerprint,
    FragmentState,
    ImageChunk,
    SupplierNo,
)
from tests.edges.catalog_rows import CODE, block, blocks_of, chunk, fragment, replicated_rows


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(":memory:")
    yield opened
    opened.close()


def local(number: int, code: Code = CODE) -> BlockRow:
    return replace(block(-number, code), block=BlockNo(number))


def image(name: bytes, block_no: int = -1, slot: int = 0) -> ImageChunk:
    return ImageChunk(name.ljust(32), BlockNo(block_no), slot, slot * 16400, 16384)


# --- local blocks ---------------------------------------------------------------------------------------------


def test_local_block_with_its_fragments_is_beside_the_one_of_a_file(catalog: SqliteCatalog) -> None:
    catalog.put_block(block(1))
    catalog.put_block(local(-1, Code(2, 4)))
    catalog.put_fragment(fragment(1, 0, 1))
    catalog.put_fragment(fragment(-1, 0, 2))
    catalog.put_fragment(fragment(-1, 1, 3, FragmentState.WANTED))
    assert [catalog.block(BlockNo(number)) for number in (1, -1, -2)] == [block(1), local(-1, Code(2, 4)), None]
    assert catalog.fragments(BlockNo(1)) == [fragment(1, 0, 1)]
    assert catalog.fragments(BlockNo(-1)) == [fragment(-1, 0, 2), fragment(-1, 1, 3, FragmentState.WANTED)]
    assert [catalog.held(BlockNo(number)) for number in (1, -1)] == [1, 1]
    catalog.drop_fragment(BlockNo(-1), 0, SupplierNo(2))
    assert [catalog.held(BlockNo(number)) for number in (1, -1)] == [1, 0]
    assert catalog.count_blocks() == 1


def test_local_blocks_come_in_the_order_in_which_they_were_made(catalog: SqliteCatalog) -> None:
    for number in (-2, -3, -1):
        catalog.put_block(local(number))
    assert catalog.local_blocks() == [local(-1), local(-2), local(-3)]


def test_numbers_of_local_blocks_are_never_given_out_twice(tmp_path: Path) -> None:
    with closing(SqliteCatalog(tmp_path / "catalog", create=True)) as catalog:
        assert [catalog.new_local_block_no(), catalog.new_local_block_no()] == [-1, -2]
        with pytest.raises(ZeroDivisionError), catalog.savepoint():
            catalog.new_local_block_no()
            raise ZeroDivisionError
        assert catalog.new_local_block_no() == -4
        assert catalog.new_block_no() == 1
    with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
        assert catalog.new_local_block_no() == -5


def test_storing_the_replica_changes_no_replicated_row(catalog: SqliteCatalog) -> None:
    catalog.put_block(block(catalog.new_block_no()))
    catalog.commit()
    before = replicated_rows(catalog)
    number = catalog.new_local_block_no()
    catalog.put_block(local(number))
    catalog.put_fragment(fragment(number, 0))
    catalog.charge_supplier(SupplierNo(1), 100, 1)
    catalog.put_delta(DeltaRow(1, 0, 1, number, 10), b"content")
    catalog.put_image_chunks([image(b"a", number)])
    catalog.put_link(1, b"link")
    catalog.commit()
    catalog.drop_block(number)
    catalog.drop_outbox(1)
    catalog.commit()
    assert catalog.last_change == 1
    assert replicated_rows(catalog) == before


def test_dropped_block_takes_its_fragments_and_chunks_along(catalog: SqliteCatalog) -> None:
    for number in (1, 2, -1, -2):
        catalog.put_block(replace(block(5), block=BlockNo(number)))
        catalog.put_fragment(fragment(number, 0))
    for number in (1, 2):
        catalog.put_chunks([chunk(number, block=number, fingerprint=bytes([number]) * 32)])
        catalog.put_image_chunks([image(b"%d" % number, -number)])
    catalog.drop_block(BlockNo(1))
    catalog.drop_block(BlockNo(-1))
    assert [catalog.block(BlockNo(number)) is None for number in (1, 2, -1, -2)] == [True, False, True, False]
    assert [len(catalog.fragments(BlockNo(number))) for number in (1, 2, -1, -2)] == [0, 1, 0, 1]
    assert [catalog.chunk(ChunkNo(number)) is None for number in (1, 2)] == [True, False]
    assert catalog.chunk_by_fingerprint(Fingerprint(b"\1" * 32)) is None
    assert catalog.image_chunks() == [image(b"2", -2)]


def test_questions_about_all_blocks_count_local_ones_too(catalog: SqliteCatalog) -> None:
    assert catalog.least_margin([])[0] is None
    for number, code, held in ((1, Code(3, 5), 4), (-1, Code(3, 5), 4), (2, Code(3, 5), 5), (-2, Code(1, 3), 1)):
        catalog.put_block(replace(block(5, code), block=BlockNo(number)))
        for index in range(held):
            catalog.put_fragment(fragment(number, index, index + 1))
    assert blocks_of(catalog.wanting_blocks(10)) == [-2, -1, 1]
    assert blocks_of(catalog.wanting_blocks(2)) == [-2, -1]
    assert catalog.held_histogram() == [(Code(1, 3), 1, 1), (Code(3, 5), 4, 2), (Code(3, 5), 5, 1)]
    everybody = [SupplierNo(number) for number in range(1, 6)]
    assert catalog.least_margin(everybody)[0] == 0
    assert catalog.least_margin(everybody[1:])[0] == -1
    catalog.drop_block(BlockNo(-2))
    assert catalog.least_margin(everybody)[0] == 1


# --- deltas, chunks of snapshots, links -----------------------------------------------------------------------


def test_deltas_come_back_oldest_first(catalog: SqliteCatalog) -> None:
    rows = [
        DeltaRow(1, 0, 4, BlockNo(-1), 100),
        DeltaRow(5, 0, 5, BlockNo(-7), 200),
        DeltaRow(5, 1, 5, BlockNo(-8), 9000),
    ]
    for row in (rows[1], rows[2], replace(rows[0], last=2), rows[0]):
        catalog.put_delta(row, bytes([row.first, row.part]))
    assert catalog.deltas() == rows
    assert [catalog.delta_content(row) for row in rows] == [b"\1\0", b"\5\0", b"\5\1"]
    catalog.drop_delta(5)
    assert catalog.deltas() == rows[:1]


def test_image_chunks_are_kept_by_content(catalog: SqliteCatalog) -> None:
    rows = [image(b"a", slot=3), image(b"b", -2), image(b"c", -2, 1)]
    catalog.put_image_chunks([rows[2], image(b"a"), rows[1]])
    catalog.put_image_chunks([rows[0]])
    assert catalog.image_chunks() == rows
    assert catalog.image_chunks(after=rows[0].print, limit=1) == rows[1:2]
    catalog.drop_image_chunks([rows[1].print])
    assert catalog.image_chunks() == [rows[0], rows[2]]
    catalog.drop_image_chunks()
    assert catalog.image_chunks() == []


def test_links_are_those_between_two_versions_oldest_first(catalog: SqliteCatalog) -> None:
    for version in (3, 1, 2, 4):
        catalog.put_link(version, b"old")
        catalog.put_link(version, b"<%d>" % version)
    assert catalog.links(1, 4) == b"<2><3>"
    assert catalog.links(0, 9) == b"<1><2><3><4>"
    assert catalog.links(3, 4) == b""
    catalog.drop_links(3)
    assert catalog.links(0, 9) == b"<3><4>"
