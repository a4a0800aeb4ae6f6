"""What snapshots hold, and which of them to delete for room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.holding import Advice, Held, advise

generations = st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def holdings(draw: st.DrawFn) -> tuple[Held, list[int]]:
    kept = draw(generations)
    runs = st.tuples(st.sampled_from(kept), st.sampled_from(kept)).map(lambda pair: (min(pair), max(pair)))
    return Held(draw(st.dictionaries(runs, st.integers(1, 100), max_size=10))), kept


def test_what_two_snapshots_have_in_common_is_freed_with_the_last_of_them() -> None:
    held = Held({(1, 1): 10, (1, 2): 100, (2, 3): 1000})
    assert held.total == 1110
    assert [held.freed(each, each) for each in (1, 2, 3)] == [10, 0, 0]
    assert held.freed(1, 2) == 110
    assert held.freed(2, 3) == 1000


def test_fewest_snapshots_that_free_enough_are_advised() -> None:
    held, kept = Held({(1, 1): 10, (1, 2): 100, (2, 3): 1000, (4, 4): 11}), [1, 2, 3, 4]
    assert advise(held, kept, 0) == advise(held, kept, 11) == Advice(4, 4, 1, 11)
    assert advise(held, kept, 12) == Advice(2, 3, 2, 1000)
    assert advise(held, kept, 1111) == advise(held, kept, 10**12) == Advice(1, 4, 4, 1121)
    assert advise(Held(), kept, 1) is None
    assert advise(held, [], 1) is None


def test_what_went_since_it_was_counted_is_not_advised() -> None:
    held = Held({(1, 1): 10, (1, 2): 20, (2, 2): 1000, (2, 3): 1000, (4, 4): 30})
    assert advise(held, [1, 3, 4], 10**12) == Advice(1, 4, 3, 40)
    assert advise(held, [1, 3, 4], 30) == Advice(4, 4, 1, 30)
    assert advise(held, [3], 1) is None


def test_what_an_older_one_has_as_well_does_not_count_for_those_behind_it() -> None:
    assert advise(Held({(1, 3): 90, (2, 2): 50, (3, 3): 10}), [1, 2, 3], 55) == Advice(2, 3, 2, 60)
    assert advise(Held({(1, 1): 50, (1, 3): 500, (2, 2): 50}), [1, 2, 3], 50) == Advice(1, 1, 1, 50)
    assert advise(Held({(1, 3): 500, (2, 2): 60}), [1, 2, 3], 50) == Advice(2, 2, 1, 60)
    assert advise(Held({(1, 1): 1, (2, 2): 60, (2, 4): 500, (3, 3): 100}), [1, 2, 3, 4], 100) == Advice(3, 3, 1, 100)


class Counted(int):
    """A length that counts how often it is added."""

    times = 0

    def __radd__(self, other: int) -> int:
        Counted.times += 1
        return int(other) + int(self)


@pytest.mark.parametrize("wanted", [1, 500_000])
def test_choosing_among_very_many_looks_at_each_run_a_few_times(wanted: int) -> None:
    many, Counted.times = 1000, 0
    runs = {(1, each): Counted(1000) for each in range(1, many + 1)}
    advice = advise(Held(runs), range(1, many + 1), wanted)
    assert advice is not None
    assert Counted.times < 10 * many


@given(holdings(), st.integers(0, 1200))
def test_no_fewer_would_free_as_much(holding: tuple[Held, list[int]], wanted: int) -> None:
    held, kept = holding
    advice = advise(held, kept, wanted)
    if advice is None:
        assert held.total == 0
        return
    rows = [kept[first:end] for end in range(1, len(kept) + 1) for first in range(end)]
    freed = {tuple(row): held.freed(row[0], row[-1]) for row in rows}
    assert advice.freed_bytes == freed[tuple(each for each in kept if advice.first <= each <= advice.last)]
    enough = [row for row, length in freed.items() if length >= min(wanted, held.total) and length]
    assert advice.count == min(map(len, enough))
    assert advice.freed_bytes == max(freed[row] for row in enough if len(row) == advice.count)
