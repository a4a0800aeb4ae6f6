"""Which snapshots are made by themselves, and which of them stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.thinning import NONE_BY_ITSELF, USUAL, Keeping, is_due, kept, name_of, parse_keeping

START = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
counts = st.integers(0, 5)


def ns(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000_000


def hours(*after: float) -> list[int]:
    return [ns(START + timedelta(hours=each)) for each in after]


def test_it_is_due_in_another_hour_or_day() -> None:
    hourly, daily = Keeping(1, 1, 0, 0), Keeping(0, 1, 0, 0)
    first, same, next_hour = hours(0, 0.4, 0.6)
    assert is_due(hourly, None, first)
    assert not is_due(hourly, first, same)
    assert is_due(hourly, first, next_hour)
    assert is_due(daily, first, next_hour)  # it was the last half hour of a day
    assert not is_due(daily, next_hour, hours(20)[0])
    assert is_due(hourly, next_hour, first)  # a clock that was ahead does not end it
    assert not is_due(NONE_BY_ITSELF, None, first)


def test_newest_of_each_period_stays() -> None:
    made = hours(0, 0.2, 1, 2, 3, 30, 31)
    assert kept(Keeping(2, 0, 0, 0), made) == {5, 6}
    assert kept(Keeping(0, 3, 0, 0), made) == {1, 4, 6}
    assert kept(Keeping(0, 0, 0, 1), made) == {6}
    assert kept(Keeping(0, 0, 0, 2), made) == {1, 6}
    assert kept(Keeping(2, 0, 0, 2), made) == {1, 5, 6}
    assert kept(NONE_BY_ITSELF, made) == frozenset()


def test_week_begins_on_monday() -> None:
    sunday, monday, next_sunday = (ns(datetime(2026, 2, day, 12, tzinfo=UTC)) for day in (1, 2, 8))
    assert kept(Keeping(0, 0, 2, 0), [sunday, monday, next_sunday]) == {0, 2}


def test_what_was_made_while_the_clock_was_far_ahead_is_older_than_what_was_made_since() -> None:
    made = hours(0, 1, 500_000, 500_001, 2, 3)
    assert kept(Keeping(1, 0, 0, 0), made) == {5}
    assert kept(Keeping(3, 0, 0, 0), made) == {3, 4, 5}


@given(st.lists(st.integers(0, 10**19), max_size=30), counts, counts, counts, counts)
def test_no_more_stay_than_asked_for_and_the_newest_does(
    made: list[int], hourly: int, daily: int, weekly: int, monthly: int
) -> None:
    most = hourly, daily, weekly, monthly
    stay = kept(Keeping(*most), made)
    assert len(stay) <= min(len(made), sum(most))
    if made and any(most):
        assert len(made) - 1 in stay  # the one that was made last, whatever time the clock said
    again = [made[place] for place in sorted(stay)]
    assert kept(Keeping(*most), again) == set(range(len(again)))  # what stays, stays


def test_what_stays_goes_back_by_the_hour_for_a_day_and_by_the_month_for_two_months_and_more() -> None:
    made: list[int] = []
    for hour in (*range(0, 200 * 24, 24), *range(200 * 24, 203 * 24)):
        now = hours(hour)[0]
        assert is_due(USUAL, made[-1] if made else None, now)
        made.append(now)
        made = [made[place] for place in sorted(kept(USUAL, made))]
        assert len(made) <= 24 + 7 + 4 + 4
    age_days = [(made[-1] - each) / (86_400 * 10**9) for each in made]
    assert len([age for age in age_days if age < 1]) == 24
    assert len([age for age in age_days if 1 <= age < 7]) == 5
    assert len([age for age in age_days if 7 <= age < 28]) >= 2
    assert len([age for age in age_days if age >= 28]) >= 2
    assert 60 <= max(age_days) <= 92


def test_snapshot_without_a_name_is_called_by_its_time() -> None:
    assert name_of(ns(START)) == "2026-01-31T23.30.00Z"


def test_what_is_kept_is_read_as_it_was_written() -> None:
    assert [parse_keeping(str(each)) for each in (USUAL, NONE_BY_ITSELF)] == [USUAL, NONE_BY_ITSELF]
    assert str(USUAL) == "24/7/4/4"
    for text in ("", "1/2/3", "1/2/3/4/5", "1/2/3/-4", "a/2/3/4", "²/2/3/4", "1/2/3/" + "9" * 5000):
        assert parse_keeping(text) is None
