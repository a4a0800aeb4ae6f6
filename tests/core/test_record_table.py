"""What is kept for others: only valid records, the newest of each, and never too many of one network."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.record import DAY_S, Record, sign_addresses
from bitdustfs.core.record_table import RecordTable

NOW_S = 1_700_000_000
SOURCES = ("a", "b", "c", "")


def made(who: int, sequence: int = 1, expiry_s: int = NOW_S + DAY_S) -> Record:
    key = Ed25519PrivateKey.from_private_bytes(who.to_bytes(32, "big"))
    return sign_addresses(key, (), sequence=sequence, expiry_s=expiry_s)


MANY = [made(who) for who in range(60)]


def test_record_is_found_under_the_hash_of_its_key() -> None:
    table = RecordTable()
    assert table.put(MANY[0], "a", NOW_S)
    assert table.get(MANY[0].id, NOW_S) == MANY[0]
    assert table.get(MANY[1].id, NOW_S) is None


def test_newer_record_takes_the_place_and_an_older_one_is_refused() -> None:
    table = RecordTable()
    assert [table.put(made(0, sequence), "a", NOW_S) for sequence in (2, 1, 2, 3, 2)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert table.get(MANY[0].id, NOW_S) == made(0, 3)
    assert len(table) == 1


def test_record_that_is_over_or_lasts_too_long_is_not_kept() -> None:
    table = RecordTable()
    assert not table.put(made(0, expiry_s=NOW_S), "a", NOW_S)
    assert not table.put(made(0, expiry_s=NOW_S + 30 * DAY_S), "a", NOW_S)
    assert len(table) == 0


def test_record_that_is_over_is_forgotten() -> None:
    table = RecordTable()
    table.put(MANY[0], "a", NOW_S)
    table.put(MANY[1], "a", NOW_S)
    assert table.get(MANY[0].id, NOW_S + DAY_S) is None
    assert len(table) == 1
    table.sweep(NOW_S + DAY_S)
    assert len(table) == 0


def test_record_that_is_over_gives_way_to_one_with_a_lower_number() -> None:
    table = RecordTable()
    table.put(made(0, 9, NOW_S + 1), "a", NOW_S)
    assert table.put(made(0, 5), "a", NOW_S + 2)


def test_flood_of_one_network_pushes_out_its_own() -> None:
    table = RecordTable(most=20, most_per_source=10)
    table.put(MANY[0], "friend", NOW_S)
    for each in MANY[1:]:
        table.put(each, "flood", NOW_S)
    assert len(table) == 11
    assert table.get(MANY[0].id, NOW_S) is not None
    assert table.get(MANY[-1].id, NOW_S) is not None
    assert table.get(MANY[1].id, NOW_S) is None


def test_full_table_takes_from_the_network_that_has_most() -> None:
    table = RecordTable(most=20, most_per_source=15)
    for number, each in enumerate(MANY[:20]):
        table.put(each, "small" if number < 5 else "large", NOW_S)
    for each in MANY[20:24]:
        assert table.put(each, "third", NOW_S)
    assert len(table) == 20
    assert all(table.get(each.id, NOW_S) for each in (*MANY[:5], *MANY[20:24]))


def test_pinned_record_stays_whoever_brings_others() -> None:
    table = RecordTable(most=5, most_per_source=5, most_pinned=2)
    table.pin([MANY[0].id, MANY[1].id, MANY[2].id])
    for each in MANY:
        table.put(each, "a", NOW_S)
    assert table.get(MANY[0].id, NOW_S) is not None
    assert table.get(MANY[1].id, NOW_S) is not None
    assert table.get(MANY[2].id, NOW_S) is None, "more were pinned than may be"
    assert len(table) == 7
    table.pin([MANY[-1].id])
    for each in MANY:
        table.put(each, "a", NOW_S)
    assert table.get(MANY[0].id, NOW_S) is None
    assert table.get(MANY[-1].id, NOW_S) is not None
    assert len(table) == 6


def test_records_that_nobody_brought_of_late_are_named_pinned_ones_first() -> None:
    table = RecordTable()
    for number, each in enumerate(MANY[:4]):
        table.put(each, "a", NOW_S + number)
    table.pin([MANY[2].id])
    table.touch(MANY[0].id, NOW_S + 9)
    assert table.stored_before(NOW_S + 3) == [MANY[2], MANY[1]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 59), st.sampled_from(SOURCES)),
            st.tuples(st.just("pin"), st.integers(0, 59), st.integers(0, 59)),
        ),
        max_size=150,
    )
)
def test_table_is_never_larger_than_it_may_be(steps: list[tuple[str, int, str | int]]) -> None:
    table = RecordTable(most=8, most_per_source=4, most_pinned=3)
    for _verb, who, other in steps:
        if isinstance(other, int):
            table.pin([MANY[who].id, MANY[other].id])
        else:
            table.put(MANY[who], other, NOW_S)
            assert len(table) <= 8 + 3
    table.sweep(NOW_S + DAY_S)
    assert len(table) == 0
