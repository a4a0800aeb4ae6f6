"""What files wish decides how many fragments their blocks have; the number of suppliers does where nobody chose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.codes import Usual, strongest, wished_code, wished_n
from bitdustfs.model import Code

CODES = st.builds(lambda k, more: Code(k, k + more), st.integers(1, 8), st.integers(0, 20))


def by_table(hired: int, *, lost: int = 0, candidates: int = 0) -> Usual:
    return Usual(None, hired, hired + lost + candidates)


@pytest.mark.parametrize(
    ("code", "usual", "n"),
    [
        (Code(2, 4), by_table(5), 5),
        (Code(2, 4), by_table(6), 6),
        (Code(2, 6), by_table(7), 6),  # the table says 3/7, and k does not follow
        (Code(2, 6), by_table(5, lost=1), 6),  # who was lost may be back
        (Code(2, 6), by_table(5, candidates=1), 6),  # another one is about to be hired
        (Code(2, 6), by_table(6, lost=1), 6),  # it was
        (Code(2, 5), by_table(5, lost=1), 5),  # no more than are hired
        (Code(2, 6), by_table(5), 5),  # one left, and nobody comes
        (Code(2, 4), by_table(3), 4),
        (Code(1, 1), by_table(3), 3),
        (Code(4, 12), by_table(23), 12),
        (Code(1, 2), by_table(0), 2),
    ],
)
def test_number_of_suppliers_moves_n_where_the_tables_k_is_that_of_the_block(
    code: Code, usual: Usual, n: int
) -> None:
    assert wished_n(code, [None], usual) == n


def test_chosen_code_wins_over_the_number_of_suppliers() -> None:
    assert wished_n(Code(2, 4), [None], Usual(Code(2, 5), 6, 6)) == 5
    assert wished_n(Code(2, 4), [None], Usual(Code(3, 5), 6, 6)) == 4
    assert wished_n(Code(2, 6), [Code(2, 3)], by_table(6)) == 3


def test_block_has_what_the_most_careful_of_its_files_wishes() -> None:
    assert wished_n(Code(2, 4), [Code(2, 3), Code(2, 5), Code(3, 9)], by_table(6)) == 5
    assert wished_n(Code(2, 4), [Code(2, 3), None], by_table(6)) == 6
    assert wished_n(Code(2, 4), [], by_table(6)) == 4
    assert wished_code([Code(3, 5), Code(1, 4), Code(2, 5)], None) == Code(1, 4)
    assert wished_code([None, Code(3, 5)], Code(3, 6)) == Code(3, 6)
    assert wished_code([None], None) is None
    assert strongest([]) is None


@given(CODES, st.lists(st.none() | CODES), st.integers(0, 30), st.integers(0, 5))
def test_what_is_wished_is_reached_at_once_and_stays(
    code: Code, wishes: list[Code | None], hired: int, more: int
) -> None:
    usual = Usual(None, hired, hired + more)
    n = wished_n(code, wishes, usual)
    assert n >= code.k
    assert wished_n(Code(code.k, n), wishes, usual) == n
