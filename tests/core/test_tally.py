"""Counts of many numbers that lie close together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.tally import Tally

STEPS = st.lists(st.tuples(st.integers(0, 600), st.integers(-3, 3)), max_size=60)


@pytest.mark.slow
@given(STEPS)
def test_tally_counts_like_a_dictionary(steps: list[tuple[int, int]]) -> None:
    tally, expected = Tally(), Counter[int]()
    for number, change in steps:
        if change > 0:
            tally.add(number, change)
            expected[number] += change
        else:
            expected[number] = max(0, expected[number] + change)
            assert tally.subtract(number, -change) == expected[number]
    assert list(tally) == sorted(number for number, count in expected.items() if count)
    assert all(tally[number] == expected[number] for number in range(601))


def test_tally_keeps_nothing_for_numbers_that_are_back_at_zero() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.add(number)
    for number in range(10_000):
        tally.subtract(number, 1)
    assert list(tally) == []
    assert not tally._pages


def test_tally_may_change_while_it_is_walked() -> None:
    tally = Tally()
    for number in range(0, 5000, 100):
        tally.add(number)
    for number in tally:
        tally.subtract(number, 1)
    assert list(tally) == []


def test_cleared_tally_is_empty() -> None:
    tally = Tally()
    tally.add(7)
    tally.clear()
    assert 7 not in tally
