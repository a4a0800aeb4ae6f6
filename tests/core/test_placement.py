"""Which code, and which suppliers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.placement import Candidate, choose, default_code, failure_network, usable_bytes
from bitdustfs.core.score import POOR
from bitdustfs.model import Code, OwnerId, SupplierNo

KIB = 1024


def candidate(
    number: int, *, owner: bytes | None = None, network: str | None = None, free: int = 1000, fragments: int = 9
) -> Candidate:
    return Candidate(
        SupplierNo(number), OwnerId(owner or bytes([number])), network or f"net{number}", free, fragments
    )  # fmt: skip


crowds = st.lists(
    st.builds(
        candidate,
        st.integers(1, 20),
        owner=st.sampled_from([b"a", b"b", b"c"]),
        network=st.sampled_from(["x", "y", "z"]),
        free=st.integers(0, 200),
        fragments=st.integers(0, 2),
    ),
    unique_by=lambda c: c.supplier,
    max_size=12,
)


def test_code_by_number_of_suppliers_is_that_of_the_design() -> None:
    codes = [str(default_code(count)) for count in range(1, 13)]
    assert codes == ["1/1", "1/2", "1/3", "2/4", "2/5", "2/6", "3/7", "3/8", "3/9", "3/10", "4/11", "4/12"]
    assert [str(default_code(count)) for count in (13, 23, 24, 1000)] == ["4/12", "4/12", "8/24", "8/24"]


def test_code_without_a_supplier_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one supplier"):
        default_code(0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7:4000", "192.0.2"),
        ("127.0.0.1:4000", "127"),
        ("127.9.9.9:1", "127"),
        ("[2001:db8:7:1::5]:4000", "2001:db8:7"),
    ],
)
def test_failure_network_is_the_24_or_48(address: str, network: str) -> None:
    assert failure_network(address) == network


@pytest.mark.slow
@given(crowds, st.integers(0, 12))
def test_chosen_suppliers_have_room_and_take_one_fragment_each(crowd: list[Candidate], count: int) -> None:
    chosen = choose(crowd, count, fragment_bytes=100)
    room = {c.supplier for c in crowd if c.free_bytes >= 100 and c.free_fragments >= 1}
    assert len(chosen) == len(set(chosen)) == min(count, len(room))
    assert set(chosen) <= room


@pytest.mark.slow
@given(crowds, st.integers(0, 12))
def test_owners_are_spread_while_there_is_a_choice(crowd: list[Candidate], count: int) -> None:
    chosen = choose(crowd, count, fragment_bytes=100)
    owner_of = {c.supplier: c.owner for c in crowd}
    owners = {c.owner for c in crowd if c.free_bytes >= 100 and c.free_fragments >= 1}
    assert len({owner_of[number] for number in chosen}) == min(len(chosen), len(owners))


@pytest.mark.slow
@given(crowds.flatmap(lambda crowd: st.tuples(st.just(crowd), st.permutations(crowd))), st.integers(0, 12))
def test_choice_does_not_depend_on_the_order_of_candidates(
    orders: tuple[list[Candidate], list[Candidate]], count: int
) -> None:
    one, other = orders
    assert choose(one, count, fragment_bytes=100) == choose(other, count, fragment_bytes=100)


@pytest.mark.slow
@given(crowds, crowds, st.integers(0, 12))
def test_supplier_that_has_a_fragment_of_the_block_gets_no_other(
    crowd: list[Candidate], taken: list[Candidate], count: int
) -> None:
    chosen = choose(crowd, count, fragment_bytes=1, taken=taken)
    assert not set(chosen) & {c.supplier for c in taken}


def test_failure_groups_of_earlier_fragments_are_avoided() -> None:
    taken = [candidate(1, owner=b"a", network="x")]
    crowd = [candidate(2, owner=b"a", network="z"), candidate(3, owner=b"b", network="x"), candidate(4, owner=b"b")]
    assert choose(crowd, 3, fragment_bytes=1, taken=taken) == (4, 2, 3)


def test_a_little_more_space_does_not_move_a_volume() -> None:
    crowd = [candidate(1, free=600 * KIB), candidate(2, free=700 * KIB), candidate(3, free=2000 * KIB)]
    assert choose(crowd, 2, fragment_bytes=1) == (3, 1)


@pytest.mark.slow
@given(st.lists(st.integers(0, 60), max_size=7), st.integers(1, 4), st.integers(0, 4))
def test_usable_bytes_are_the_largest_by_the_formula(free: list[int], k: int, more: int) -> None:
    positive = [f for f in free if f > 0]
    n = min(k + more, len(positive))
    fitting = [x for x in range(61 * 7) if sum(min(f, x) for f in positive) >= n * x] if n >= k else [0]
    assert usable_bytes(free, Code(k, k + more)) == k * max(fitting)


def test_good_score_outweighs_twice_the_space_and_a_poor_one_comes_last() -> None:
    roomy, good, poor = (
        replace(candidate(number), free_bytes=size) for number, size in ((1, 2 << 30), (2, 1 << 30), (3, 1 << 40))
    )
    some = [replace(roomy, score=59), replace(good, score=100), replace(poor, score=POOR - 1)]
    assert choose(some, 3, fragment_bytes=1) == (2, 1, 3)
