"""What the catalog keeps about suppliers beside their contracts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import (
    Absence,
    AuditTally,
    BlockNo,
    FragmentState,
    Observation,
    Standing,
    SupplierNo,
    Track,
    Wanting,
)
from tests.edges.catalog_rows import SUPPLIER, block, blocks_of, fragment

ONE = SupplierNo(1)


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(":memory:")
    yield opened
    opened.close()


def test_standing_of_a_supplier_comes_back(catalog: SqliteCatalog) -> None:
    for number, standing in enumerate(Standing, start=1):
        catalog.put_supplier(replace(SUPPLIER, supplier=SupplierNo(number), standing=standing))
    assert [row.standing for row in catalog.suppliers()] == list(Standing)
    assert [row.is_hired for row in catalog.suppliers()] == [False, True, False, False, False, False]


def test_observation_put_again_is_replaced(catalog: SqliteCatalog) -> None:
    catalog.put_observation(Observation(ONE, 1.5, 7))
    catalog.put_observation(Observation(ONE, 2.25, 9))
    assert catalog.observations() == [Observation(ONE, 2.25, 9)]


def test_absences_are_kept_in_order_and_old_ones_forgotten(catalog: SqliteCatalog) -> None:
    for ended_ns in (30, 10, 20):
        catalog.note_absence(ONE, Absence(ended_ns, 1.0), forget_before_ns=0)
    assert [each.ended_ns for each in catalog.absences(ONE)] == [10, 20, 30]
    catalog.note_absence(ONE, Absence(40, 1.0), forget_before_ns=20)
    assert [each.ended_ns for each in catalog.absences(ONE)] == [20, 30, 40]
    assert catalog.absences(SupplierNo(2)) == []


def test_track_put_again_is_replaced(catalog: SqliteCatalog) -> None:
    for present_s in (1.5, 2.25):
        catalog.put_track(Track(ONE, present_s, 3.0, 4.0, 0.5, 1e6))
    assert catalog.tracks() == [Track(ONE, 2.25, 3.0, 4.0, 0.5, 1e6)]


def test_absent_fragments_are_not_held(catalog: SqliteCatalog) -> None:
    catalog.put_block(block(1))
    for index in range(5):
        catalog.put_fragment(fragment(1, index, index + 1))
    catalog.put_fragment(fragment(1, 0, 1, FragmentState.ABSENT))
    assert catalog.held(BlockNo(1)) == 4
    assert catalog.wanting_blocks(10) == [Wanting(1, BlockNo(1))]


def test_fragments_at_a_supplier_are_found_by_state_in_both_kinds_of_blocks(catalog: SqliteCatalog) -> None:
    for number in (-1, 1, 2):
        catalog.put_fragment(fragment(number, 0, 1))
        catalog.put_fragment(fragment(number, 1, 2))
    catalog.put_fragment(fragment(2, 0, 1, FragmentState.LOST))
    assert catalog.fragments_at(ONE, FragmentState.HELD, 10) == [fragment(-1, 0, 1), fragment(1, 0, 1)]
    assert catalog.fragments_at(ONE, FragmentState.HELD, 1) == [fragment(-1, 0, 1)]
    assert catalog.fragments_at(ONE, FragmentState.LOST, 9) == [fragment(2, 0, 1, FragmentState.LOST)]


def test_repair_queue_can_be_walked_page_by_page(catalog: SqliteCatalog) -> None:
    for number in (-1, 1, 2, 3):
        catalog.put_block(replace(block(abs(number)), block=BlockNo(number)))
    for number in (1, -1):
        catalog.put_fragment(fragment(number, 0, 1))
    page = catalog.wanting_blocks(2)
    assert blocks_of(page) == [2, 3]
    rest = catalog.wanting_blocks(9, page[-1])
    assert blocks_of(rest) == [-1, 1]
    assert catalog.wanting_blocks(9, rest[-1]) == []


def test_audits_of_a_supplier_come_back(catalog: SqliteCatalog) -> None:
    catalog.put_audits(ONE, AuditTally(3, 1, 7))
    catalog.put_audits(ONE, AuditTally(4, 1, 9))
    assert catalog.audits() == {ONE: AuditTally(4, 1, 9)}


def test_fragments_at_a_supplier_can_be_walked_from_any_block_on(catalog: SqliteCatalog) -> None:
    assert catalog.block_numbers() == (0, 0)
    for number in (-2, -1, 1, 2):
        catalog.put_block(replace(block(abs(number)), block=BlockNo(number)))
        catalog.put_fragment(fragment(number, 0, 1))
    assert catalog.block_numbers() == (-2, 2)
    found = catalog.fragments_at(ONE, FragmentState.HELD, 2, BlockNo(-1))
    assert [row.block for row in found] == [-1, 1]
    assert [row.block for row in catalog.fragments_at(ONE, FragmentState.HELD, 9, BlockNo(2))] == [2]


def test_blocks_of_which_a_supplier_has_nothing_are_told(catalog: SqliteCatalog) -> None:
    states = {-1: FragmentState.HELD, 1: FragmentState.ABSENT, 2: FragmentState.WANTED, 3: FragmentState.LOST}
    for number, state in states.items():
        catalog.put_fragment(fragment(number, 0, 1, state))
        catalog.put_fragment(fragment(number, 1, 2))
    blocks = [BlockNo(number) for number in (-2, *states)]
    assert catalog.blocks_for([ONE], blocks) == {-2, 2, 3}
    assert catalog.blocks_for([SupplierNo(2)], blocks) == {-2}
    assert catalog.blocks_for([ONE, SupplierNo(3)], blocks) == set(blocks)
    assert catalog.blocks_for([], blocks) == set()
    catalog.put_fragment(fragment(1, 1, 3))  # two hold the same
    assert catalog.blocks_for([SupplierNo(2)], blocks) == {-2, 1}
