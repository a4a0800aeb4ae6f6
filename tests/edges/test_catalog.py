"""What the catalog's tables remember, in a file and in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    HOLE,
    NO_INO,
    ROOT_INO,
    BlockNo,
    ChunkNo,
    ChunkPlace,
    Code,
    Cookie,
    Extent,
    Fingerprint,
    FragmentName,
    FragmentState,
    Hold,
    Ino,
    Layer,
    LocalFile,
    MapRow,
    Name,
    SupplierNo,
)
from bitdustfs.ports import Catalog
from tests.edges.catalog_rows import DIRECTORY, FILE, SUPPLIER, block, blocks_of, chunk, file, fragment

ALL = 1 << 40


@pytest.fixture(params=["file", "memory"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    opened = SqliteCatalog(tmp_path / "catalog" if request.param == "file" else ":memory:", create=True)
    yield opened
    opened.close()


# --- inodes ---------------------------------------------------------------------------------------------------


def test_inode_comes_back_with_every_field(catalog: Catalog) -> None:
    device = file(8, mode=0o20600, rdev=0x0501, nlink=3, uid=2**32 - 2, atime_ns=-1, mtime_ns=2**62)
    link = file(9, mode=0o120777, target=b"\xff/there", size=7)
    for inode in (FILE, device, link):
        catalog.put_inode(inode)
    catalog.commit()
    assert [catalog.inode(Ino(ino)) for ino in (7, 8, 9)] == [FILE, device, link]
    assert catalog.inode(Ino(10)) is None


def test_inode_put_again_is_replaced(catalog: Catalog) -> None:
    catalog.put_inode(FILE)
    catalog.put_inode(replace(FILE, size=1, code=Code(1, 2)))
    assert catalog.inode(FILE.ino) == replace(FILE, size=1, code=Code(1, 2))
    assert catalog.count_inodes() == 1


def test_dropped_inode_takes_its_map_xattrs_and_local_rows_along(catalog: Catalog) -> None:
    catalog.put_inode(FILE)
    catalog.put_xattr(FILE.ino, b"user.a", b"1")
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(1))], first=0, last=0)
    catalog.put_local_file(LocalFile(FILE.ino, 1, 2, 3, 4, 5))
    catalog.put_extents(FILE.ino, Layer.LIVE, [Extent(0, 9, 0, Hold.DIRTY)], gone=[(0, ALL)])
    catalog.put_inline(FILE.ino, b"content", b"sum")
    catalog.put_sums(FILE.ino, 0, b"sums")
    catalog.drop_inode(FILE.ino)
    assert catalog.inode(FILE.ino) is None
    assert not catalog.xattrs(FILE.ino)
    assert not catalog.map_rows(FILE.ino, 0, ALL)
    assert catalog.local_file(FILE.ino) is None
    assert catalog.sums(FILE.ino, 0) == b""
    assert not catalog.extents(FILE.ino, Layer.LIVE)
    assert catalog.inline(FILE.ino) is None


def test_drop_of_an_unknown_inode_changes_nothing(catalog: Catalog) -> None:
    catalog.drop_inode(Ino(99))
    assert catalog.file_bytes() == (0, 0)


def test_sums_count_live_inodes_and_the_bytes_of_regular_files(catalog: Catalog) -> None:
    catalog.put_inode(replace(DIRECTORY, size=5))
    catalog.put_inode(file(7, size=100))
    catalog.put_inode(file(8, size=20))
    catalog.put_inode(file(7, size=50))
    catalog.drop_inode(Ino(8))
    assert catalog.file_bytes() == (50, 2)
    assert catalog.count_inodes() == 2


def test_numbers_are_never_given_out_twice(catalog: Catalog) -> None:
    first = [catalog.new_ino(), catalog.new_chunk_no(), catalog.new_block_no()]
    with pytest.raises(ZeroDivisionError), catalog.savepoint():
        catalog.put_inode(file(catalog.new_ino()))
        raise ZeroDivisionError
    catalog.commit()
    assert first == [2, 1, 1]
    assert [catalog.new_ino(), catalog.new_chunk_no(), catalog.new_block_no()] == [4, 2, 2]


# --- names ----------------------------------------------------------------------------------------------------


def test_name_is_found_by_exact_bytes(catalog: Catalog) -> None:
    put = catalog.put_name(ROOT_INO, b"a\xff\n", Ino(7), superseded=Ino(3))
    assert put == Name(ROOT_INO, b"a\xff\n", Ino(7), put.cookie, Ino(3))
    assert catalog.name(ROOT_INO, b"a\xff\n") == put
    assert catalog.name(ROOT_INO, b"A\xff\n") is None
    assert catalog.name(Ino(2), b"a\xff\n") is None


def test_name_that_was_looked_for_in_vain_is_found_once_it_is_there(catalog: Catalog) -> None:
    assert catalog.name(ROOT_INO, b"f") is None
    catalog.put_name(ROOT_INO, b"f", Ino(7))
    found = catalog.name(ROOT_INO, b"f")
    assert found is not None and found.ino == 7


def test_name_is_there_again_when_its_removal_is_undone(catalog: Catalog) -> None:
    catalog.put_name(ROOT_INO, b"f", Ino(7))
    with pytest.raises(InterruptedError), catalog.savepoint():
        catalog.drop_name(ROOT_INO, b"f")
        assert catalog.name(ROOT_INO, b"f") is None
        raise InterruptedError
    assert catalog.name(ROOT_INO, b"f") is not None


def test_replaced_name_keeps_its_cookie_and_a_new_life_gets_a_new_one(catalog: Catalog) -> None:
    first = catalog.put_name(ROOT_INO, b"a", Ino(7))
    replaced = catalog.put_name(ROOT_INO, b"a", Ino(8), superseded=Ino(7))
    catalog.drop_name(ROOT_INO, b"a")
    reborn = catalog.put_name(ROOT_INO, b"a", Ino(9))
    assert replaced == Name(ROOT_INO, b"a", Ino(8), first.cookie, Ino(7))
    assert reborn.cookie > first.cookie


def test_names_of_an_inode_are_found_in_all_directories(catalog: Catalog) -> None:
    put = [catalog.put_name(Ino(parent), b"x", Ino(7)) for parent in (1, 5, 9)]
    catalog.put_name(Ino(5), b"other", Ino(8))
    assert catalog.names_of(Ino(7)) == put


def test_superseding_names_are_those_that_keep_an_older_inode(catalog: Catalog) -> None:
    catalog.put_name(ROOT_INO, b"plain", Ino(7))
    keeps = catalog.put_name(ROOT_INO, b"new", Ino(7), superseded=Ino(5))
    assert catalog.superseding(Ino(7)) == [keeps]
    catalog.put_name(ROOT_INO, b"new", Ino(7), superseded=NO_INO)
    assert catalog.superseding(Ino(7)) == []


def test_orphans_are_inodes_without_name_that_nothing_supersedes(catalog: Catalog) -> None:
    catalog.put_inode(DIRECTORY)
    for ino in (7, 8, 9):
        catalog.put_inode(file(ino))
    catalog.put_name(ROOT_INO, b"named", Ino(7), superseded=Ino(8))
    catalog.put_name(ROOT_INO, b"was", Ino(9))
    catalog.drop_name(ROOT_INO, b"was")
    assert catalog.orphans() == [9]


def test_directory_is_read_in_cookie_order_with_inodes(catalog: Catalog) -> None:
    for ino, name in ((7, b"z"), (8, b"a"), (9, b"m")):
        catalog.put_inode(file(ino))
        catalog.put_name(ROOT_INO, name, Ino(ino))
    listed = catalog.names(ROOT_INO, Cookie(0), 100)
    assert [(name.name, inode.ino) for name, inode in listed] == [(b"z", 7), (b"a", 8), (b"m", 9)]
    assert catalog.names(ROOT_INO, listed[0][0].cookie, 1) == listed[1:2]


def test_directory_read_by_cookies_shows_each_lasting_name_once_while_others_come_and_go(catalog: Catalog) -> None:
    catalog.put_inode(FILE)
    lasting = [b"lasting%d" % number for number in range(50)]
    for name in lasting:
        catalog.put_name(ROOT_INO, name, FILE.ino)
        catalog.put_name(ROOT_INO, b"brief" + name, FILE.ino)
    seen = list(_walk_while_changing(catalog, lasting))
    assert [name for name in seen if name in lasting] == lasting
    assert len(seen) == len(set(seen))


def _walk_while_changing(catalog: Catalog, lasting: Sequence[bytes]) -> Iterator[bytes]:
    dice = random.Random(7)
    cookie = Cookie(0)
    while page := catalog.names(ROOT_INO, cookie, 3):
        for name, _ in page:
            yield name.name
        cookie = page[-1][0].cookie
        catalog.drop_name(ROOT_INO, b"brief" + dice.choice(lasting))
        catalog.put_name(ROOT_INO, dice.choice(lasting), FILE.ino)
        if cookie < 200:
            catalog.put_name(ROOT_INO, b"late%d" % cookie, FILE.ino)


# --- xattrs ---------------------------------------------------------------------------------------------------


def test_xattrs_are_kept_by_name(catalog: Catalog) -> None:
    catalog.put_xattr(FILE.ino, b"user.b", b"2")
    catalog.put_xattr(FILE.ino, b"user.a", b"")
    catalog.put_xattr(FILE.ino, b"user.b", b"\0new")
    assert catalog.xattrs(FILE.ino) == [(b"user.a", b""), (b"user.b", b"\0new")]
    assert catalog.xattr(FILE.ino, b"user.a") == b""
    assert catalog.drop_xattr(FILE.ino, b"user.a") is True
    assert catalog.drop_xattr(FILE.ino, b"user.a") is False
    assert catalog.xattr(FILE.ino, b"user.a") is None


# --- maps -----------------------------------------------------------------------------------------------------


def hole(index: int, count: int) -> MapRow:
    return MapRow(index, count, HOLE)


def full(index: int) -> MapRow:
    return MapRow(index, 1, ChunkNo(100 + index))


def test_map_rows_are_those_that_touch_the_range(catalog: Catalog) -> None:
    rows = [full(0), hole(1, 5), full(6), full(7), hole(9, 2)]
    catalog.replace_map(FILE.ino, rows, first=0, last=10)
    assert catalog.map_rows(FILE.ino, 0, 100) == rows
    assert catalog.map_rows(FILE.ino, 3, 6) == [hole(1, 5), full(6)]
    assert catalog.map_rows(FILE.ino, 5, 5) == [hole(1, 5)]
    assert catalog.map_rows(FILE.ino, 8, 8) == []
    assert catalog.map_rows(FILE.ino, 8, 9) == [hole(9, 2)]
    assert catalog.map_rows(Ino(8), 0, 100) == []
    assert (catalog.map_end(FILE.ino), catalog.map_end(Ino(8))) == (11, 0)


def test_replaced_map_cuts_a_hole_run_at_both_ends(catalog: Catalog) -> None:
    catalog.replace_map(FILE.ino, [hole(0, 100)], first=0, last=99)
    catalog.replace_map(FILE.ino, [full(10), full(11)], first=10, last=12)
    assert catalog.map_rows(FILE.ino, 0, 99) == [hole(0, 10), full(10), full(11), hole(13, 87)]


def test_replaced_map_cuts_the_runs_at_its_edges(catalog: Catalog) -> None:
    catalog.replace_map(FILE.ino, [hole(0, 10), full(10), hole(11, 10)], first=0, last=20)
    catalog.replace_map(FILE.ino, [], first=5, last=15)
    assert catalog.map_rows(FILE.ino, 0, 99) == [hole(0, 5), hole(16, 5)]


@pytest.mark.slow
def test_map_follows_a_list_through_random_replacements(catalog: Catalog) -> None:
    dice = random.Random(3)
    model = [-1] * 40
    for _ in range(300):
        first = dice.randrange(40)
        last = dice.randrange(first, 40)
        chunk_no = dice.randrange(3)
        rows = [MapRow(i, 1, ChunkNo(chunk_no)) for i in range(first, last + 1)] if chunk_no else []
        runs = rows or ([hole(first, last - first + 1)] if dice.random() < 0.7 else [])
        catalog.replace_map(FILE.ino, runs, first=first, last=last)
        model[first : last + 1] = [chunk_no if runs else -1] * (last - first + 1)
        got = [-1] * 40
        for row in catalog.map_rows(FILE.ino, 0, 39):
            assert got[row.index : row.index + row.count] == [-1] * row.count
            got[row.index : row.index + row.count] = [row.chunk] * row.count
        assert got == model


# --- chunks, blocks, fragments --------------------------------------------------------------------------------


def test_chunk_comes_back(catalog: Catalog) -> None:
    catalog.put_chunks([chunk(5, block=2, slot=3)])
    assert catalog.chunk(ChunkNo(5)) == chunk(5, block=2, slot=3)
    assert catalog.chunk(ChunkNo(6)) is None


def test_place_of_a_chunk_tells_how_many_fragments_are_held(catalog: Catalog) -> None:
    catalog.put_block(block(2))
    catalog.put_chunks([chunk(5, block=2), chunk(6, block=3)])
    for index in (0, 1, 1):
        catalog.put_fragment(fragment(2, index))
    assert catalog.place_of(ChunkNo(5)) == ChunkPlace(BlockNo(2), block(2).code, 2)
    assert catalog.place_of(ChunkNo(6)) is None
    assert catalog.place_of(ChunkNo(7)) is None


def test_fingerprint_finds_the_newest_chunk(catalog: Catalog) -> None:
    catalog.put_chunks([chunk(5)])
    catalog.put_chunks([chunk(6, slot=1)])
    catalog.put_chunks([chunk(7, slot=2, fingerprint=b"g" * 32)])
    assert catalog.chunk_by_fingerprint(Fingerprint(b"f" * 32)) == chunk(6, slot=1)
    assert catalog.chunk_by_fingerprint(Fingerprint(b"h" * 32)) is None


def test_chunk_that_is_put_again_lies_where_it_was_put_last(catalog: Catalog) -> None:
    catalog.put_chunks([chunk(5, block=1, slot=0)])
    catalog.put_chunks([chunk(6, block=2, slot=9)])
    catalog.put_chunks([chunk(5, block=2, slot=9)])
    assert catalog.chunk(ChunkNo(5)) == chunk(5, block=2, slot=9)
    assert catalog.chunks_of_block(BlockNo(1)) == []
    assert catalog.chunks_of_block(BlockNo(2)) == [chunk(5, block=2, slot=9), chunk(6, block=2, slot=9)]


def test_block_comes_back_with_its_roots(catalog: Catalog) -> None:
    catalog.put_block(block(1))
    catalog.put_block(block(2, Code(1, 1)))
    assert catalog.block(BlockNo(1)) == block(1)
    assert catalog.block(BlockNo(2)) == block(2, Code(1, 1))
    assert catalog.block(BlockNo(3)) is None
    assert catalog.count_blocks() == 2


def test_blocks_of_a_file_are_named_once_and_holes_are_in_none(catalog: Catalog) -> None:
    for number, block_no in ((1, 4), (2, 4), (3, 5)):
        catalog.put_chunks([chunk(number, block=block_no, slot=number)])
    rows = [MapRow(0, 1, ChunkNo(1)), MapRow(1, 1, ChunkNo(2)), hole(2, 7), MapRow(9, 1, ChunkNo(3))]
    catalog.replace_map(FILE.ino, rows, first=0, last=9)
    assert sorted(catalog.blocks_of(FILE.ino)) == [4, 5]
    assert catalog.held_of(FILE.ino) == [None], "of none of them there is a row"
    for number, held in ((4, 2), (5, 3)):
        catalog.put_block(block(number, Code(3, 5)))
        for index in range(held):
            catalog.put_fragment(fragment(number, index, index + 1))
    assert sorted(each or (Code(1, 1), 0) for each in catalog.held_of(FILE.ino)) == [(Code(3, 5), 2), (Code(3, 5), 3)]


def test_fragments_are_kept_by_block_index_and_supplier(catalog: Catalog) -> None:
    rows = [fragment(1, 0, 1), fragment(1, 0, 2, FragmentState.LOST), fragment(1, 1, 2, FragmentState.WANTED)]
    for row in reversed(rows):
        catalog.put_fragment(row)
    assert catalog.fragments(BlockNo(1)) == rows
    catalog.put_fragment(fragment(1, 1, 2))
    catalog.drop_fragment(BlockNo(1), 0, SupplierNo(2))
    assert catalog.fragments(BlockNo(1)) == [fragment(1, 0, 1), fragment(1, 1, 2)]


def test_held_counts_different_held_fragments(catalog: Catalog) -> None:
    for row in (fragment(1, 0, 1), fragment(1, 0, 2), fragment(1, 1, 3), fragment(1, 2, 4, FragmentState.LOST)):
        catalog.put_fragment(row)
    assert catalog.held(BlockNo(1)) == 2
    assert catalog.held(BlockNo(2)) == 0


def test_blocks_are_held_if_all_are_there_with_as_many_fragments_as_asked(catalog: Catalog) -> None:
    for number, held in ((1, 4), (2, 2)):
        catalog.put_block(block(number, Code(3, 5)))
        for index in range(held):
            catalog.put_fragment(fragment(number, index, index + 1))
    assert catalog.are_held({})
    assert catalog.are_held({BlockNo(1): 4, BlockNo(2): 2})
    assert not catalog.are_held({BlockNo(1): 4, BlockNo(2): 3})
    assert not catalog.are_held({BlockNo(1): 4, BlockNo(3): 0})


def test_wanting_blocks_come_with_the_fewest_above_k_first(catalog: Catalog) -> None:
    for number, code, held in ((1, Code(3, 5), 4), (2, Code(3, 5), 5), (3, Code(1, 3), 1), (4, Code(3, 5), 2)):
        catalog.put_block(block(number, code))
        for index in range(held):
            catalog.put_fragment(fragment(number, index, index + 1))
    assert blocks_of(catalog.wanting_blocks(10)) == [4, 3, 1]
    assert blocks_of(catalog.wanting_blocks(1)) == [4]
    assert catalog.held_histogram() == [
        (Code(3, 5), 2, 1),
        (Code(1, 3), 1, 1),
        (Code(3, 5), 4, 1),
        (Code(3, 5), 5, 1),
    ]


def test_least_margin_counts_only_suppliers_that_answer(catalog: Catalog) -> None:
    assert catalog.least_margin([])[0] is None
    for number in (1, 2):
        catalog.put_block(block(number))
        for index in range(4 + number % 2):
            catalog.put_fragment(fragment(number, index, index + 1))
    assert catalog.least_margin([SupplierNo(number) for number in range(1, 6)])[0] == 1
    assert catalog.least_margin([SupplierNo(1), SupplierNo(5)])[0] == -2


def test_wanting_blocks_follow_every_change_of_fragments_and_of_n(catalog: Catalog) -> None:
    for index in range(2):
        catalog.put_fragment(fragment(1, index, index + 1))
    catalog.put_block(block(1, Code(1, 2)))
    assert blocks_of(catalog.wanting_blocks(10)) == []
    catalog.put_fragment(fragment(1, 0, 1, FragmentState.LOST))
    assert blocks_of(catalog.wanting_blocks(10)) == [1]
    catalog.put_fragment(fragment(1, 0, 3))
    assert blocks_of(catalog.wanting_blocks(10)) == []
    catalog.drop_fragment(BlockNo(1), 1, SupplierNo(2))
    assert blocks_of(catalog.wanting_blocks(10)) == [1]
    catalog.put_block(block(1, Code(1, 1)))
    assert blocks_of(catalog.wanting_blocks(10)) == []


# --- suppliers ------------------------------------------------------------------------------------------------


def test_supplier_with_number_zero_takes_a_new_one(catalog: Catalog) -> None:
    catalog.put_supplier(SUPPLIER)
    catalog.put_supplier(replace(SUPPLIER, label="s2"))
    catalog.put_supplier(replace(SUPPLIER, supplier=SupplierNo(1), address="[::1]:2"))
    assert catalog.suppliers() == [
        replace(SUPPLIER, supplier=SupplierNo(1), address="[::1]:2"),
        replace(SUPPLIER, supplier=SupplierNo(2), label="s2"),
    ]


def test_charged_supplier_counts_up_and_down(catalog: Catalog) -> None:
    catalog.put_supplier(SUPPLIER)
    catalog.charge_supplier(SupplierNo(1), 1000, 3)
    catalog.charge_supplier(SupplierNo(1), -400, -1)
    (supplier,) = catalog.suppliers()
    assert (supplier.used_bytes, supplier.used_fragments) == (600, 2)


# --- local ----------------------------------------------------------------------------------------------------


def test_local_file_comes_back(catalog: Catalog) -> None:
    catalog.put_local_file(LocalFile(Ino(7), 1, 2, 3, 4, 5))
    catalog.put_local_file(LocalFile(Ino(7), 10, 20, 30, 40, 0))
    catalog.put_local_file(LocalFile(Ino(6), 0, 0, 0, 0, 0))
    assert catalog.local_file(Ino(7)) == LocalFile(Ino(7), 10, 20, 30, 40, 0)
    assert [row.ino for row in catalog.local_files()] == [6, 7]
    catalog.drop_local_file(Ino(7))
    assert catalog.local_file(Ino(7)) is None


def test_extents_are_replaced_by_where_they_start(catalog: Catalog) -> None:
    rows = [Extent(0, 10, 0, Hold.DIRTY), Extent(10, 20, 0, Hold.ZERO), Extent(30, 40, 10, Hold.CLEAN)]
    catalog.put_extents(FILE.ino, Layer.LIVE, rows, gone=[(0, ALL)])
    assert catalog.extents(FILE.ino, Layer.LIVE) == rows
    catalog.put_extents(FILE.ino, Layer.LIVE, [Extent(12, 20, 50, Hold.DIRTY)], gone=[(5, 30)])
    assert catalog.extents(FILE.ino, Layer.LIVE) == [rows[0], Extent(12, 20, 50, Hold.DIRTY), rows[2]]
    assert catalog.extents(Ino(8), Layer.LIVE) == []


def test_layers_of_extents_are_apart(catalog: Catalog) -> None:
    live, beneath = [Extent(0, 10, 90, Hold.DIRTY)], [Extent(0, 5, 0, Hold.DIRTY)]
    catalog.put_extents(FILE.ino, Layer.LIVE, live, gone=[(0, ALL)])
    catalog.put_extents(FILE.ino, Layer.BENEATH, beneath, gone=[(0, ALL)])
    assert catalog.extents(FILE.ino, Layer.LIVE) == live
    assert catalog.extents(FILE.ino, Layer.BENEATH) == beneath
    catalog.put_extents(FILE.ino, Layer.BENEATH, [], gone=[(0, ALL)])
    assert catalog.extents(FILE.ino, Layer.LIVE) == live
    assert catalog.extents(FILE.ino, Layer.BENEATH) == []


def test_files_that_a_crash_may_have_touched_are_found(catalog: Catalog) -> None:
    rows = [
        LocalFile(Ino(1), 0, 0, 0, 100, 1, hard_until=100, summed_until=100),
        LocalFile(Ino(2), 0, 0, 0, 100, 1, hard_until=50, summed_until=100, hard_size=7),
        LocalFile(Ino(3), 0, 0, 0, 100, 0, hard_until=50, summed_until=100),
        LocalFile(Ino(4), 0, 0, 0, 100, 0, hard_until=50, summed_until=50),
        LocalFile(Ino(5), 0, 0, 0, 100, 0, hard_until=100, summed_until=100),
        LocalFile(Ino(6), 0, 0, 0, 0, 0),
    ]
    for row in rows:
        catalog.put_local_file(row)
        hold = Hold.ZERO if row.ino == 5 else Hold.CLEAN
        catalog.put_extents(row.ino, Layer.LIVE, [Extent(0, 9, 0, hold)], gone=[(0, ALL)])
    assert catalog.unsure_files() == [rows[1], rows[3], rows[4]]


def test_sums_come_back_by_row(catalog: Catalog) -> None:
    for row in range(4):
        catalog.put_sums(Ino(7), row, b"first sums")
        catalog.put_sums(Ino(7), row, bytes([row]) * 8)
    catalog.put_sums(Ino(8), 1, b"other")
    catalog.drop_sums(Ino(7), 1, 3)
    assert [catalog.sums(Ino(7), row) for row in range(4)] == [b"\0" * 8, b"", b"", b"\3" * 8]
    assert catalog.sums(Ino(8), 1) == b"other"


def test_inline_content_comes_back(catalog: Catalog) -> None:
    catalog.put_inline(Ino(7), b"", b"")
    catalog.put_inline(Ino(8), bytes(range(256)) * 64, b"a sum")
    catalog.put_inline(Ino(8), b"shorter", b"another")
    assert catalog.inline(Ino(7)) == (b"", b"")
    assert catalog.inline(Ino(8)) == (b"shorter", b"another")
    assert catalog.inline_bytes() == 7
    catalog.drop_inline(Ino(8))
    assert catalog.inline(Ino(8)) is None
    assert catalog.inline_bytes() == 0


def test_uploads_come_back_with_fragments_in_order(catalog: Catalog) -> None:
    fragments = [(SupplierNo(9), FragmentName(b"x" * 32)), (SupplierNo(2), FragmentName(b"a" * 32))]
    catalog.put_upload(b"2" * 32, fragments)
    catalog.put_upload(b"1" * 32, [])
    assert catalog.uploads() == [(b"1" * 32, []), (b"2" * 32, fragments)]
    catalog.drop_upload(b"1" * 32)
    catalog.drop_upload(b"2" * 32)
    assert catalog.uploads() == []


def test_values_come_back(catalog: Catalog) -> None:
    catalog.put_value("scope", b"\0\1")
    catalog.put_value("scope", b"\0\2")
    assert catalog.value("scope") == b"\0\2"
    assert catalog.value("suite") is None
    catalog.put_local_value("scope", b"here")
    catalog.put_local_value("scope", b"here again")
    assert catalog.local_value("scope") == b"here again"
    assert catalog.value("scope") == b"\0\2"
    assert catalog.local_value("suite") is None


def test_suppliers_that_were_asked_for_are_told_anew_after_every_change_and_every_undoing(catalog: Catalog) -> None:
    catalog.put_supplier(SUPPLIER)
    before = catalog.suppliers()
    catalog.charge_supplier(before[0].supplier, 100, 1)
    (charged,) = catalog.suppliers()
    assert charged.used_bytes == before[0].used_bytes + 100
    with pytest.raises(ZeroDivisionError), catalog.savepoint():
        catalog.put_supplier(replace(charged, label="other"))
        assert catalog.suppliers()[0].label == "other"
        raise ZeroDivisionError
    assert catalog.suppliers() == [charged]
