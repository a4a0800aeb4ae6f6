"""Scores: what makes one better or worse, and that everything is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import score
from bitdustfs.core.grace import DAY_S
from bitdustfs.model import SupplierNo, Track

NEW = Track(SupplierNo(1))
TRACKS = st.builds(
    Track,
    st.just(SupplierNo(1)),
    st.floats(0, 90 * DAY_S),
    st.floats(0, 90 * DAY_S),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.floats(0, 1e9),
)


def after_days(days: int, *, answers: bool = True, track: Track = NEW) -> Track:
    for _ in range(days):
        track = score.audited(score.watched(track, DAY_S, answers=answers), proven=16 if answers else 0, wrong=0)
    return track


@given(track=TRACKS, more=st.floats(1, DAY_S))
def test_better_deeds_never_make_a_worse_score(track: Track, more: float) -> None:
    now = score.score(track)
    assert 0 <= now <= score.FULL
    assert (
        score.score(score.audited(track, proven=1, wrong=0))
        >= now
        >= score.score(score.audited(track, proven=0, wrong=1))
    )
    assert score.score(score.moved(track, 2 * track.bytes_per_s)) >= now
    there, away = (score.watched(track, more, answers=answers) for answers in (True, False))
    assert score.score(there) >= score.score(away)


def test_good_supplier_reaches_nearly_the_full_score_and_an_unknown_one_is_between() -> None:
    good = score.moved(after_days(30), 2e6)
    assert score.score(good) > 97
    assert score.POOR < score.score(NEW) < score.score(good)


def test_supplier_that_is_away_at_night_is_better_than_one_that_seldom_answers() -> None:
    nights, seldom = NEW, NEW
    for hour in range(30 * 24):
        nights = score.watched(nights, 3600, answers=hour % 24 < 16)
        seldom = score.watched(seldom, 3600, answers=hour % 24 < 4)
    assert score.uptime(nights) == pytest.approx(2 / 3, abs=0.05)
    assert score.uptime(seldom) == pytest.approx(1 / 6, abs=0.05)


def test_a_twentieth_of_all_fragments_lost_makes_a_poor_score_and_is_forgotten_in_months() -> None:
    broken = score.audited(after_days(30), proven=1900, wrong=100)
    assert score.score(broken) < score.POOR
    assert score.score(after_days(30, track=broken)) < score.score(after_days(180, track=broken))
    assert score.score(after_days(300, track=broken)) > 80


def test_slow_line_costs_up_to_a_half() -> None:
    slow, fast = (score.score(score.moved(NEW, speed)) for speed in (1000.0, 1e9))
    assert slow == pytest.approx(fast / 2, abs=1)
