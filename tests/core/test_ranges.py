"""Extents against a model with one entry for each quarter of a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.ranges import ChunkPart, Extents, Piece, Region, chunk_count, chunk_parts, clip
from bitdustfs.model import CHUNK_BYTES, Extent, Hold

UNIT = CHUNK_BYTES // 4
CELLS = 40

ranges = st.tuples(st.integers(0, CELLS), st.integers(0, CELLS)).map(lambda pair: (min(pair), max(pair)))
kinds = st.sampled_from(["dirty", "clean", "zero", "cut", "publish", "store", "freeze", "absorb"])
steps = st.lists(st.tuples(kinds, ranges), max_size=40)


@dataclass
class Model:
    """What each cell of the file holds: None, or its hold and its cell of the spool; and what was given back."""

    cells: list[tuple[Hold, int] | None] = field(default_factory=lambda: [None] * CELLS)
    spool_end: int = 0
    returned: list[int] = field(default_factory=list)

    @property
    def referenced(self) -> list[int]:
        return [cell[1] for cell in self.cells if cell is not None and cell[0] is not Hold.ZERO]


@dataclass
class Run:
    """Extents and their model, changed by the same steps; and the rows that a catalog would have."""

    extents: Extents = field(default_factory=Extents)
    model: Model = field(default_factory=Model)
    rows: dict[int, Extent] = field(default_factory=dict)
    frozen: Extents = field(default_factory=Extents)
    frozen_cells: list[tuple[Hold, int] | None] = field(default_factory=lambda: [None] * CELLS)

    def step(self, what: str, start: int, end: int) -> None:
        if what == "store":
            self.store()
        elif what == "publish":
            self.publish(start, end)
        elif what == "freeze":
            self.frozen, self.frozen_cells = Extents(self.extents), self.model.cells.copy()
        elif what == "absorb":
            self.absorb()
        elif what == "cut":
            self.give_back(self.extents.cut(start * UNIT, end * UNIT))
            self.model.cells[start:end] = [None] * (end - start)
        elif what == "zero":
            self.lay(start, end, Hold.ZERO, 0)
        else:
            self.lay(start, end, Hold.DIRTY if what == "dirty" else Hold.CLEAN, self.model.spool_end)
            self.model.spool_end += end - start

    def lay(self, start: int, end: int, hold: Hold, at: int) -> None:
        self.give_back(self.extents.lay(Extent(start * UNIT, end * UNIT, at * UNIT, hold)))
        step = 0 if hold is Hold.ZERO else 1
        self.model.cells[start:end] = [(hold, at + step * i) for i in range(end - start)]

    def publish(self, start: int, end: int) -> None:
        """What is dirty in the spool becomes clean in its place."""
        for piece in list(self.extents.pieces(start * UNIT, end * UNIT)):
            if piece.extent is not None and piece.extent.hold is Hold.DIRTY:
                first, last = piece.start // UNIT, piece.end // UNIT
                self.lay(first, last, Hold.CLEAN, piece.extent.at // UNIT)

    def absorb(self) -> None:
        """What was frozen is published: where it is the same still, bytes are clean and zeros are gone."""
        self.extents.clean(self.frozen)
        for place, cell in enumerate(self.model.cells):
            if cell is not None and cell == self.frozen_cells[place] and cell[0] is not Hold.CLEAN:
                self.model.cells[place] = None if cell[0] is Hold.ZERO else (Hold.CLEAN, cell[1])

    def store(self) -> None:
        """Store what changed, as the catalog does."""
        fresh, gone = self.extents.changes()
        for low, high in gone:
            self.rows = {at: row for at, row in self.rows.items() if not low <= at < high}
        self.rows |= {extent.start: extent for extent in fresh}
        self.extents.clean_slate()

    def give_back(self, regions: Iterable[Region]) -> None:
        for region in regions:
            assert region.at % UNIT == region.length % UNIT == 0
            assert region.length > 0
            self.model.returned.extend(range(region.at // UNIT, (region.at + region.length) // UNIT))


def run_of(steps: Iterable[tuple[str, tuple[int, int]]]) -> Run:
    run = Run()
    for what, (start, end) in steps:
        run.step(what, start, end)
    return run


@pytest.mark.slow
@given(steps, ranges)
def test_pieces_cover_any_range_with_what_was_laid_last(
    steps: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    run = run_of(steps)
    start, end = window
    got: list[tuple[Hold, int] | None] = []
    for piece in run.extents.pieces(start * UNIT, end * UNIT):
        assert piece.start == (start + len(got)) * UNIT
        got.extend(_cells(piece))
    assert got == run.model.cells[start:end]


def _cells(piece: Piece) -> list[tuple[Hold, int] | None]:
    count = (piece.end - piece.start) // UNIT
    assert count > 0
    if piece.extent is None:
        return [None] * count
    assert (piece.extent.start, piece.extent.end) == (piece.start, piece.end)
    step = 0 if piece.extent.hold is Hold.ZERO else 1
    return [(piece.extent.hold, piece.extent.at // UNIT + step * i) for i in range(count)]


@pytest.mark.slow
@given(steps)
def test_extents_are_sorted_apart_and_joined_where_they_can_be(steps: list[tuple[str, tuple[int, int]]]) -> None:
    extents = list(run_of(steps).extents)
    for left, right in pairwise(extents):
        assert left.start < left.end <= right.start
        follows = left.hold is Hold.ZERO or left.at + left.end - left.start == right.at
        assert not (left.end == right.start and left.hold is right.hold and follows)


@pytest.mark.slow
@given(steps)
def test_every_spool_byte_is_referenced_or_was_given_back_exactly_once(
    steps: list[tuple[str, tuple[int, int]]],
) -> None:
    model = run_of(steps).model
    assert sorted(model.referenced + model.returned) == list(range(model.spool_end))


@pytest.mark.slow
@given(steps)
def test_storing_what_was_touched_is_enough(steps: list[tuple[str, tuple[int, int]]]) -> None:
    run = run_of(steps)
    run.store()
    assert sorted(run.rows.values(), key=lambda e: e.start) == list(run.extents)


@pytest.mark.slow
@given(steps)
def test_rows_that_were_stored_make_equal_extents(steps: list[tuple[str, tuple[int, int]]]) -> None:
    run = run_of(steps)
    again = Extents(reversed(list(run.extents)))
    assert list(again) == list(run.extents)
    assert again.changes() == ([], [])


@pytest.mark.slow
@given(steps, ranges)
def test_between_gives_whole_extents_that_touch_the_range(
    steps: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    run = run_of(steps)
    start, end = window[0] * UNIT, window[1] * UNIT + 1
    expected = [extent for extent in run.extents if extent.start < end and extent.end > start]
    assert list(run.extents.between(start, end)) == expected


@pytest.mark.slow
@given(steps, ranges)
def test_dirty_is_counted_by_bytes_chunks_and_ranges(
    steps: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    run = run_of(steps)
    holds = [cell[0] if cell else None for cell in run.model.cells]
    dirty = [i for i, hold in enumerate(holds) if hold in (Hold.DIRTY, Hold.ZERO)]
    assert run.extents.dirty_bytes() == holds.count(Hold.DIRTY) * UNIT
    assert run.extents.dirty_chunks() == sorted({i * UNIT // CHUNK_BYTES for i in dirty})
    start, end = window
    assert run.extents.is_clean(start * UNIT, end * UNIT) is not any(start <= i < end for i in dirty)


@given(st.integers(0, 5 * CHUNK_BYTES), st.integers(0, 5 * CHUNK_BYTES))
def test_chunk_parts_cover_a_range_in_order(offset: int, length: int) -> None:
    at = offset
    for part in chunk_parts(offset, length):
        assert 0 <= part.start < part.end <= CHUNK_BYTES
        assert part.index * CHUNK_BYTES + part.start == at
        at = part.index * CHUNK_BYTES + part.end
    assert at == offset + length


def test_chunk_parts_are_cut_at_the_edges_of_chunks() -> None:
    assert list(chunk_parts(CHUNK_BYTES - 1, 2)) == [
        ChunkPart(0, CHUNK_BYTES - 1, CHUNK_BYTES),
        ChunkPart(1, 0, 1),
    ]
    assert list(chunk_parts(7, 0)) == []


def test_chunk_count_rounds_up() -> None:
    assert [chunk_count(size) for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1)] == [0, 1, 1, 2]


def test_clip_moves_the_spool_position_along_but_not_for_zeros() -> None:
    assert clip(Extent(10, 20, 100, Hold.DIRTY), 12, 15) == Extent(12, 15, 102, Hold.DIRTY)
    assert clip(Extent(10, 20, 0, Hold.ZERO), 12, 15) == Extent(12, 15, 0, Hold.ZERO)
    assert clip(Extent(10, 20, 100, Hold.CLEAN), 0, 99) == Extent(10, 20, 100, Hold.CLEAN)


def test_empty_ranges_change_nothing() -> None:
    extents = Extents([Extent(0, 10, 0, Hold.DIRTY)])
    assert extents.lay(Extent(5, 5, 99, Hold.DIRTY)) == []
    assert extents.cut(5, 5) == []
    assert list(extents.pieces(5, 5)) == []
    assert extents.changes() == ([], [])
    assert len(extents) == 1


def test_only_rows_that_changed_are_stored_again() -> None:
    extents = Extents(Extent(at, at + 5, at, Hold.CLEAN) for at in range(0, 1000, 10))
    extents.lay(Extent(501, 503, 2000, Hold.DIRTY))
    put = [Extent(500, 501, 500, Hold.CLEAN), Extent(501, 503, 2000, Hold.DIRTY), Extent(503, 505, 503, Hold.CLEAN)]
    assert extents.changes() == (put, [])


def test_rows_that_go_side_by_side_go_at_once() -> None:
    extents = Extents(Extent(at, at + 5, at, Hold.CLEAN) for at in range(0, 1000, 10))
    extents.cut(100, 500)
    extents.cut(700, 710)
    assert extents.changes() == ([], [(100, 491), (700, 701)])
