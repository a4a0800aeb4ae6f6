"""The token bucket: on the average a limit holds, whatever the pieces and the clock."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.pace import BURST_S, LEAST_PIECE_BYTES, Bucket

PIECES = st.lists(st.tuples(st.integers(1, 1 << 18), st.floats(0, 2)), min_size=1, max_size=60)


@given(limit=st.integers(64 * 1024, 1 << 27), pieces=PIECES)
def test_what_moves_is_never_more_than_limit_and_burst_and_one_piece(
    limit: int, pieces: list[tuple[int, float]]
) -> None:
    bucket, now, moved = Bucket(limit), 0.0, 0
    for count, idle_s in pieces:
        now += idle_s
        now += bucket.wait_s(now)
        assert moved <= limit * (now + BURST_S) * (1 + 1e-9) + 1
        bucket.spend(count, now)
        moved += count


@given(limit=st.integers(64 * 1024, 1 << 27), pieces=st.lists(st.integers(1, 1 << 18), min_size=2, max_size=60))
def test_who_always_has_something_gets_the_whole_limit(limit: int, pieces: list[int]) -> None:
    bucket, now = Bucket(limit), 0.0
    for count in pieces:
        now += bucket.wait_s(now)
        bucket.spend(count, now)
    assert sum(pieces[:-1]) >= limit * now * (1 - 1e-9) - 1


def test_without_a_limit_nobody_waits() -> None:
    bucket = Bucket()
    bucket.spend(1 << 40, 0.0)
    assert bucket.wait_s(0.0) == 0
    assert bucket.piece(1 << 20) == 1 << 20


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = Bucket(100_000)
    bucket.spend(100_000, 5.0)
    assert bucket.wait_s(5.0) == bucket.wait_s(5.0) > 0


def test_a_debt_is_forgotten_with_its_limit_and_shortened_with_a_lower_one() -> None:
    bucket = Bucket(1 << 24)
    bucket.spend(1 << 24, 0.0)
    bucket.limit(1 << 16, 0.0)
    assert bucket.wait_s(0.0) <= BURST_S
    bucket.limit(inf, 0.0)
    bucket.limit(1 << 16, 0.0)
    assert bucket.wait_s(0.0) == 0


def test_pieces_are_short_where_the_limit_is_low() -> None:
    assert Bucket(64 * 1024).piece(1 << 20) == LEAST_PIECE_BYTES
    assert Bucket(1 << 20).piece(1 << 20) == 1 << 16
    assert Bucket(1 << 30).piece(1 << 18) == 1 << 18
