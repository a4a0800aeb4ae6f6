"""The table of a supplier's states, and how long we wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import grace, standing
from bitdustfs.core.grace import DAY_S, HOUR_S, Patience
from bitdustfs.core.standing import Event, State
from bitdustfs.model import Absence, Standing

DAY_NS = DAY_S * 10**9


def test_every_state_says_what_hiring_answering_and_firing_do() -> None:
    for state in State:
        assert standing.after(state, Event.FIRE) is State.FIRED
        assert standing.after(state, Event.HIRE) not in (State.CANDIDATE, State.LOST, State.FIRED)
        standing.after(state, Event.ANSWER)


def test_only_one_that_is_offline_or_leaving_can_be_lost() -> None:
    lost = {State.LOST, State.MISSING}
    losing = {s for s in State for e, to in standing.TABLE[s].items() if to in lost and s not in lost}
    assert losing == {State.OFFLINE, State.LEAVING}


def test_who_was_leaving_when_it_was_lost_is_not_hired_by_coming_back() -> None:
    gone = standing.after(State.LEAVING, Event.PATIENCE_ENDS)
    assert standing.after(standing.at_start(standing.kept(gone)), Event.ANSWER) is State.LEAVING


def test_event_that_cannot_happen_is_an_error_and_not_a_default() -> None:
    with pytest.raises(ValueError, match="online cannot meet 'patience ends'"):
        standing.after(State.ONLINE, Event.PATIENCE_ENDS)


def test_what_the_catalog_keeps_survives_a_restart() -> None:
    for kept in Standing:
        assert standing.kept(standing.at_start(kept)) is kept


@given(spare=st.integers(-3, 20), longest_s=st.floats(0, 90 * DAY_S))
def test_less_to_spare_never_means_more_patience(spare: int, longest_s: float) -> None:
    patience = Patience()
    assert grace.grace_s(patience, spare, longest_s) <= grace.grace_s(patience, spare + 1, longest_s)


def test_supplier_that_was_away_for_long_before_is_waited_for_longer() -> None:
    assert grace.grace_s(Patience(), 1, longest_s=2 * DAY_S) == 3 * DAY_S
    assert grace.grace_s(Patience(), 2, longest_s=HOUR_S) == 3 * DAY_S


def test_habits_do_not_count_when_nothing_can_be_spared() -> None:
    assert grace.grace_s(Patience(), 0, longest_s=20 * DAY_S) == 6 * HOUR_S


def test_absence_of_more_than_a_month_ago_is_forgotten() -> None:
    seen = [Absence(ended_ns=DAY_NS, length_s=9 * DAY_S), Absence(ended_ns=20 * DAY_NS, length_s=DAY_S)]
    assert grace.longest_s(seen, now_ns=20 * DAY_NS) == 9 * DAY_S
    assert grace.longest_s(seen, now_ns=40 * DAY_NS) == DAY_S
    assert grace.longest_s([], now_ns=0) == 0


def test_of_an_absence_only_what_lies_in_the_last_month_counts() -> None:
    seen = [Absence(ended_ns=100 * DAY_NS, length_s=90 * DAY_S)]
    assert grace.longest_s(seen, now_ns=101 * DAY_NS) == 29 * DAY_S
    assert grace.longest_s(seen, now_ns=120 * DAY_NS) == 10 * DAY_S
    assert grace.longest_s(seen, now_ns=140 * DAY_NS) == 0


def test_time_that_this_machine_slept_through_is_not_counted() -> None:
    assert grace.seen_s(6.0, tick_s=5.0) == 6.0
    assert grace.seen_s(3 * DAY_S, tick_s=5.0) == 5.0


@pytest.mark.parametrize(("answering", "expected", "we"), [(3, 5, False), (2, 5, True), (0, 1, True), (1, 2, False)])
def test_fewer_than_half_means_that_we_are_cut_off(answering: int, expected: int, we: bool) -> None:
    assert grace.are_we_the_ones(answering, expected) is we
