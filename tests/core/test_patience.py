"""Which reads end, so that others get a turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.patience import CALM_S, CROWDED_S, KERNEL_SLOTS, STALLED_MOST, WaitingRead, reads_to_end


def waiting(*quiet_s: float) -> list[WaitingRead]:
    return [WaitingRead(number, each) for number, each in enumerate(quiet_s)]


def test_six_reads_may_be_stalled_for_ever() -> None:
    assert reads_to_end(waiting(*[1e9] * STALLED_MOST), slots=KERNEL_SLOTS) == []


def test_further_one_makes_the_longest_end() -> None:
    assert reads_to_end(waiting(*[1e9] * (STALLED_MOST + 2)), slots=KERNEL_SLOTS) == [0, 1]


def test_any_number_may_wait_while_something_comes_for_them() -> None:
    assert reads_to_end(waiting(*[CROWDED_S / 2] * 150), slots=KERNEL_SLOTS) == []


def test_reads_that_keep_nobody_back_are_given_more_time() -> None:
    some = waiting(*[(CROWDED_S + CALM_S) / 2] * KERNEL_SLOTS)
    assert len(reads_to_end(some, slots=KERNEL_SLOTS)) == KERNEL_SLOTS - STALLED_MOST
    assert reads_to_end(some, slots=200) == []


@given(
    quiet=st.lists(st.floats(0, 2 * CALM_S), max_size=40),
    slots=st.integers(1, 300),
)
def test_only_stalled_reads_end_and_no_more_than_needed(quiet: list[float], slots: int) -> None:
    ended = reads_to_end(waiting(*quiet), slots=slots)
    assert all(quiet[number] >= CROWDED_S for number in ended)
    assert sum(each >= CALM_S for each in quiet) - len(ended) <= STALLED_MOST
    assert not ended or sum(each >= CROWDED_S for each in quiet) - len(ended) >= STALLED_MOST
