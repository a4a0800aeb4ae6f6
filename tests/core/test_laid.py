"""Laid rows against a set of indexes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.laid import Laid
from bitdustfs.core.ranges import map_runs
from bitdustfs.model import HOLE, ChunkNo, MapRow

MOST = 40
_STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, MOST), st.integers(0, 5)))


def made(steps: list[tuple[bool, int, int]]) -> tuple[Laid, set[int]]:
    laid, model = Laid(), set[int]()
    for is_added, first, more in steps:
        if is_added:
            laid.add(first)
            model.add(first)
        else:
            laid.discard(first, first + more)
            model.difference_update(range(first, first + more + 1))
    return laid, model


@given(_STEPS, st.integers(0, MOST), st.integers(0, 2 * MOST))
def test_gaps_are_the_indexes_that_are_not_laid(steps: list[tuple[bool, int, int]], first: int, end: int) -> None:
    laid, model = made(steps)
    gaps = list(laid.gaps(first, end))
    assert [i for gap in gaps for i in range(*gap)] == [i for i in range(first, end) if i not in model]
    assert all(one[1] < two[0] for one, two in pairwise(gaps))
    assert [i for i in range(2 * MOST) if i in laid] == sorted(model)


@given(_STEPS, st.sets(st.integers(0, 2 * MOST)))
def test_others_are_those_that_are_not_laid(steps: list[tuple[bool, int, int]], asked: set[int]) -> None:
    laid, model = made(steps)
    assert laid.others(sorted(asked)) == sorted(asked - model)


@given(_STEPS, st.sets(st.integers(0, 2 * MOST)), st.integers(0, MOST), st.integers(0, 2 * MOST))
def test_map_runs_with_laid_rows_make_the_next_version(
    steps: list[tuple[bool, int, int]], refs: set[int], published: int, count: int
) -> None:
    laid, model = made([step for step in steps if step[1] >= published])
    refs = {index for index in refs - model if index < count}
    rows = [
        row
        for run in map_runs(dict.fromkeys(refs, ChunkNo(7)), published=published, count=count, laid=laid)
        for row in run
    ]
    assert [row for row in rows if row.chunk != HOLE] == [MapRow(i, 1, ChunkNo(7)) for i in sorted(refs)]
    holes = [i for row in rows if row.chunk == HOLE for i in range(row.index, row.index + row.count)]
    assert holes == [i for i in range(published, count) if i not in model and i not in refs]
