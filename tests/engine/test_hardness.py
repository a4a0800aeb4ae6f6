"""What truncations make of the state that a power loss leaves."""

from __future__ import annotations

import pytest

from bitdustfs.engine.hardness import Hardness


@pytest.mark.parametrize(
    ("hard", "live", "to", "expected"),
    [
        (100, 100, 40, 40),
        (100, 100, 300, 300),
        (100, 300, 40, 40),
        (100, 300, 100, 100),
        (100, 300, 200, 100),
        (100, 300, 300, 100),
        (100, 300, 900, 100),
        (100, 300, 0, 0),
    ],
)
def test_truncation_shortens_what_is_hard_and_never_puts_zeros_in_place_of_soft_bytes(
    hard: int, live: int, to: int, expected: int
) -> None:
    hardness = Hardness(size=hard)
    hardness.truncated(live, to, 1)
    assert hardness.size == expected


def test_truncation_while_a_sync_runs_takes_nothing_from_what_it_makes_hard() -> None:
    hardness = Hardness()
    hardness.begin(300, 300, 1)
    hardness.truncated(300, 300, 2)
    hardness.truncated(300, 250, 3)
    hardness.complete()
    assert hardness.size == 250


def test_file_that_was_emptied_while_a_sync_ran_stays_empty() -> None:
    hardness = Hardness()
    hardness.begin(300, 300, 1)
    hardness.truncated(300, 0, 2)
    hardness.spilled(b"new", 3)
    hardness.complete()
    assert (hardness.size, hardness.inline) == (3, b"new")
