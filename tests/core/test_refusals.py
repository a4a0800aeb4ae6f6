"""What a supplier refuses again and again, for long, is as good as lost."""

from __future__ import annotations

from bitdustfs.core.refusals import ENOUGH_S, ENOUGH_TIMES, FORGOTTEN_S, REMEMBERED, Refusals


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


def test_disk_that_refuses_more_than_is_remembered_loses_one_after_the_other() -> None:
    refusals: Refusals[int] = Refusals()
    left = list(range(REMEMBERED + 100))
    for day in range(2 * ENOUGH_TIMES):
        left = [number for number in left if not refusals.note(number, day * ENOUGH_S)]
    assert not left


def test_what_nobody_refuses_any_more_makes_room() -> None:
    refusals: Refusals[int] = Refusals()
    for number in range(REMEMBERED):
        refusals.note(number, 0.0)
    later = [REMEMBERED + number for number in range(100)]
    told = [[refusals.note(number, FORGOTTEN_S + day * ENOUGH_S) for number in later] for day in range(ENOUGH_TIMES)]
    assert all(told[-1])
    assert len(refusals) == REMEMBERED - 100
