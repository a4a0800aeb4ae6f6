"""How soon suppliers will have answered, and whom to ask by that."""

from __future__ import annotations

from math import inf

from bitdustfs.core.speed import AGAIN_TIMES, HEDGE_S, LONG_BYTES, TRUST_S, Speed, is_overdue, quickest

FRAGMENT = 1 << 20


def noted(speed: Speed, *answers: tuple[float, float]) -> Speed:
    """(asked at, came at) of fragments."""
    for asked_at, came_at in answers:
        speed.note(asked_at, FRAGMENT, now=came_at, way_s=0.1)
    return speed


def test_queue_and_way_do_not_make_a_supplier_look_slow() -> None:
    alone = noted(Speed(), (0.0, 1.1), (2.0, 3.1))
    queued = noted(Speed(), (0.0, 1.1), (0.0, 2.1))
    assert alone.s_per_byte(4.0) == queued.s_per_byte(4.0)


def test_answers_that_come_at_once_are_no_faster_than_one_after_the_other() -> None:
    together = noted(Speed(), (0.0, 2.1), (0.0, 2.1))
    known = together.s_per_byte(3.0)
    assert known is not None
    assert 0.8 / FRAGMENT < known < 1.2 / FRAGMENT


def test_old_knowledge_is_let_go() -> None:
    speed = noted(Speed(), (0.0, 1.1))
    assert speed.s_per_byte(TRUST_S) is not None
    assert speed.s_per_byte(TRUST_S + 2) is None


def test_answer_that_was_given_up_never_makes_a_supplier_look_faster() -> None:
    speed = noted(Speed(), (0.0, 1.1))
    before = speed.s_per_byte(2.0)
    speed.note(2.0, FRAGMENT, now=2.2, way_s=0.1, came=False)
    assert speed.s_per_byte(2.2) == before
    speed.note(3.0, FRAGMENT, now=9.0, way_s=0.1, came=False)
    after = speed.s_per_byte(9.0)
    assert before is not None
    assert after is not None
    assert after > before


def test_slow_one_is_looked_at_again_the_later_the_slower_it_was() -> None:
    slow, slower = noted(Speed(), (0.0, 1.1)), noted(Speed(), (0.0, 2.1))
    assert not Speed().is_due(1.0)
    assert not slow.is_due(1.1 + AGAIN_TIMES / 2)
    assert slow.is_due(1.2 + AGAIN_TIMES)
    assert not slower.is_due(2.2 + AGAIN_TIMES)
    slow.note(9.0, FRAGMENT, now=9.3, way_s=0.1, came=False)
    assert not slow.is_due(9.4)


def test_what_is_looked_at_again_counts_alone() -> None:
    speed = noted(Speed(), (0.0, 4.1))
    speed.note(40.0, FRAGMENT, now=40.6, way_s=0.1, is_again=True)
    known = speed.s_per_byte(41.0)
    assert known is not None
    assert abs(known * FRAGMENT - 0.5) < 0.01


def test_short_answers_say_nothing_of_the_line() -> None:
    speed = Speed()
    speed.note(0.0, LONG_BYTES - 1, now=5.0, way_s=0.1)
    assert speed.s_per_byte(5.0) is None
    assert speed.short_s() == 5.0


def test_overdue_is_what_is_late_by_more_than_others_would_take() -> None:
    assert is_overdue(2.1, 1.0, 1.0)
    assert not is_overdue(1.9, 1.0, 1.0)
    assert not is_overdue(1.0 + HEDGE_S / 2, 1.0, 0.0)


def test_primaries_are_asked_while_others_are_not_much_quicker() -> None:
    assert quickest([0, 1, 2], {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.9, 4: 0.9}, 3) == [0, 1, 2]


def test_slow_primary_is_left_out() -> None:
    assert sorted(quickest([0, 1, 2], {0: 9.0, 1: 1.0, 2: 1.0, 3: 1.1, 4: 1.0}, 3)) == [1, 2, 4]


def test_gain_too_short_to_decode_for_is_let_go() -> None:
    assert quickest([0, 1, 2], {0: 0.03, 1: 0.001, 2: 0.001, 3: 0.001, 4: 0.001}, 3) == [0, 1, 2]


def test_part_of_one_fragment_is_asked_of_others_only_if_they_are_very_much_quicker() -> None:
    assert quickest([0], {0: 1.0, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}, 3) == [0]
    assert sorted(quickest([0], {0: 9.0, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.6}, 3)) == [1, 2, 3]


def test_fragments_that_nobody_has_are_replaced_from_the_start() -> None:
    assert sorted(quickest([0, 1, 2], {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0}, 3)) == [1, 2, 3]
    assert sorted(quickest([0], {0: inf, 1: 1.0, 2: 1.0, 3: 1.0}, 3)) == [1, 2, 3]


def test_primaries_are_tried_where_nothing_else_is_enough() -> None:
    assert quickest([0, 1, 2], {0: inf, 1: 1.0, 2: 1.0}, 3) == [0, 1, 2]
