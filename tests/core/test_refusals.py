"""What a supplier refuses again and again, for long, is as good as lost."""

from __future__ import annotations

from bitdustfs.core.refusals import ENOUGH_S, ENOUGH_TIMES, REMEMBERED, Refusals


def test_refusals_over_more_than_a_day_are_a_loss() -> None:
    refusals: Refusals[str] = Refusals()
    pause_s = ENOUGH_S / (ENOUGH_TIMES - 1)
    told = [refusals.note("leaf", at * pause_s) for at in range(ENOUGH_TIMES)]
    assert told == [False] * (ENOUGH_TIMES - 1) + [True]
    assert len(refusals) == 0


def test_many_refusals_in_an_hour_are_no_loss() -> None:
    refusals: Refusals[str] = Refusals()
    assert not any(refusals.note("leaf", at) for at in range(3600))


def test_few_refusals_over_days_are_no_loss() -> None:
    refusals: Refusals[str] = Refusals()
    assert not any(refusals.note("leaf", at * ENOUGH_S) for at in range(ENOUGH_TIMES - 1))


def test_what_is_given_once_begins_anew() -> None:
    refusals: Refusals[str] = Refusals()
    for at in range(ENOUGH_TIMES - 1):
        refusals.note("leaf", at * ENOUGH_S)
    refusals.clear("leaf")
    assert not refusals.note("leaf", ENOUGH_TIMES * ENOUGH_S)


def test_memory_of_refusals_is_bounded() -> None:
    refusals: Refusals[int] = Refusals()
    for number in range(REMEMBERED + 10):
        refusals.note(number, 0.0)
    assert len(refusals) == REMEMBERED
