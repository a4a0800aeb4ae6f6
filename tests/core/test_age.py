"""A date is old when both clocks say so: the one on the wall, and one that nobody sets."""

from __future__ import annotations

from bitdustfs.core.age import STEP_S, Age

SPAN_S = 1000 * STEP_S
NOW_S = 1_800_000_000


class Clocks:
    """Both of them, and what is asked."""

    def __init__(self) -> None:
        self.age = Age(SPAN_S)
        self.wall_s, self.steady_s = NOW_S, 5.0

    def is_old(self, date_s: int) -> bool:
        return date_s < self.age.before_s(self.wall_s, self.steady_s)

    def date(self) -> int:
        self.age.before_s(self.wall_s, self.steady_s)
        return self.wall_s

    def wait_s(self, seconds: int) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


def test_date_is_old_after_the_span() -> None:
    clocks = Clocks()
    date = clocks.date()
    clocks.wait_s(SPAN_S)
    assert not clocks.is_old(date)
    clocks.wait_s(1)
    assert clocks.is_old(date)


def test_what_lies_before_the_first_look_goes_by_its_date() -> None:
    clocks = Clocks()
    assert clocks.is_old(NOW_S - SPAN_S - 1)
    assert not clocks.is_old(NOW_S - SPAN_S)


def test_jump_forward_makes_nothing_old_that_did_not_live_so_long() -> None:
    clocks = Clocks()
    date = clocks.date()
    clocks.wait_s(SPAN_S // 2)
    clocks.wall_s += 100 * SPAN_S
    assert not clocks.is_old(date)
    late = clocks.date()
    clocks.wait_s(SPAN_S // 2 + STEP_S)
    assert clocks.is_old(date)
    assert not clocks.is_old(late)
    clocks.wait_s(SPAN_S // 2)
    assert clocks.is_old(late)


def test_date_of_a_clock_that_was_behind_is_not_old_when_it_is_right() -> None:
    clocks = Clocks()
    clocks.wall_s -= 100 * SPAN_S
    date = clocks.date()
    clocks.wait_s(STEP_S)
    clocks.wall_s += 100 * SPAN_S
    for _ in range(9):
        assert not clocks.is_old(date)
        clocks.wait_s(SPAN_S // 10)
    clocks.wait_s(SPAN_S)
    assert clocks.is_old(date)


def test_clock_that_runs_fast_is_remembered_in_steps() -> None:
    clocks = Clocks()
    for _ in range(10_000):
        clocks.wait_s(1)
        clocks.wall_s += 1
        clocks.date()
    assert len(clocks.age._ahead) <= 10_000 // STEP_S + 2
