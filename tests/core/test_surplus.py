"""Which fragments of a block are more than it needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.placement import Candidate
from bitdustfs.core.surplus import Place, spread, surplus
from bitdustfs.model import OwnerId, SupplierNo


def steady(*numbers: int, owner: int | None = None) -> list[Candidate]:
    """Suppliers of owners of their own, or all of one."""
    return [
        Candidate(SupplierNo(n), OwnerId(bytes([n if owner is None else owner]) * 32), f"network {n}", 100, 100)
        for n in numbers
    ]


def at(*places: tuple[int, int]) -> list[Place]:
    return [(index, SupplierNo(supplier)) for index, supplier in places]


def test_copy_at_the_better_supplier_stays() -> None:
    held = at((0, 1), (1, 2), (2, 3), (1, 4))
    assert surplus(3, held, steady(1, 3, 4, 2)) == at((1, 2))
    assert surplus(3, held, steady(1, 2, 3, 4)) == at((1, 4))


def test_supplier_that_is_not_steady_is_not_counted_on() -> None:
    held = at((0, 1), (1, 2), (2, 3), (1, 4))
    assert surplus(3, held, steady(1, 2, 4)) == []
    assert surplus(3, held, steady(1, 3, 4)) == at((1, 2))


def test_two_fragments_at_one_supplier_count_as_one() -> None:
    assert surplus(2, at((0, 1), (1, 1), (0, 2)), steady(1, 2)) == at((0, 1))
    assert surplus(2, at((0, 1), (1, 1)), steady(1)) == []


def test_copy_outside_the_failure_group_stays() -> None:
    held = at((0, 1), (1, 2), (1, 3))
    together = steady(1, 2, owner=9)
    assert surplus(2, held, [*together, *steady(3)]) == at((1, 2))


def test_more_different_fragments_than_the_code_wishes_are_surplus() -> None:
    assert surplus(2, at((0, 1), (1, 2), (2, 3)), steady(1, 2, 3)) == at((2, 3))


PLACES = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9).map(SupplierNo)), unique=True, max_size=20)


@given(st.integers(1, 7), PLACES, st.permutations(range(1, 10)), st.integers(0, 9))
def test_what_stays_is_n_different_fragments_with_n_steady_suppliers(
    n: int, held: list[Place], order: list[int], count: int
) -> None:
    spare = surplus(n, held, steady(*order[:count]))
    left = [place for place in held if place not in spare]
    counted = [place for place in left if place[1] in order[:count]]
    enough = spread(place for place in held if place[1] in order[:count]) >= n
    assert bool(spare) == (enough and len(held) > n)
    if spare:
        assert spread(counted) == len(left) == n
