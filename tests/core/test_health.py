"""How safe a block and a file are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.health import ORDER, block_state, margin, worst
from bitdustfs.model import Code, FileState


@pytest.mark.parametrize(
    ("held", "state"),
    [
        (0, FileState.LOST),
        (2, FileState.LOST),
        (3, FileState.DEGRADED),
        (4, FileState.PLACED),
        (5, FileState.PLACED),
    ],
)
def test_state_of_a_3_5_block_by_held_fragments(held: int, state: FileState) -> None:
    assert block_state(Code(3, 5), held, local_copy=False) is state


def test_block_without_enough_fragments_is_local_while_the_spool_has_it() -> None:
    assert block_state(Code(3, 5), 2, local_copy=True) is FileState.LOCAL


def test_quorum_by_code() -> None:
    codes = [(1, 1), (1, 2), (1, 3), (2, 4), (3, 5), (3, 8), (4, 12), (8, 24)]
    assert [Code(k, n).quorum for k, n in codes] == [1, 2, 2, 3, 4, 6, 8, 16]


@given(st.integers(1, 20), st.integers(0, 20))
def test_quorum_is_more_than_k_where_it_can_be(k: int, more: int) -> None:
    code = Code(k, k + more)
    assert min(k + 1, code.n) <= code.quorum <= code.n


@given(st.lists(st.sampled_from(FileState), min_size=1))
def test_worst_of_several_is_the_first_in_order(states: list[FileState]) -> None:
    assert worst(states) is next(state for state in ORDER if state in states)


def test_order_names_every_state() -> None:
    assert sorted(ORDER, key=list(FileState).index) == list(FileState)


def test_file_without_blocks_is_placed() -> None:
    assert worst([]) is FileState.PLACED


def test_margin_is_what_may_still_fail() -> None:
    assert [margin(Code(3, 5), answering) for answering in (5, 3, 2)] == [2, 0, -1]
