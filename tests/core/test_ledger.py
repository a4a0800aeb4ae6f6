"""The ledger: which byte-hours count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import ledger, receipt
from bitdustfs.core.ledger import HOUR_MS, MAX_PAGE_BYTES, MAX_WINDOWS, Account, Gift, Window
from bitdustfs.core.receipt import MAX_NUMBER
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId
from tests.core.test_receipt import NOW_S, SIGNED, VIEW

NODE, OTHER = NodeId(b"n" * 32), NodeId(b"o" * 32)
GIB = 1 << 30


def held(account: Account, hours: int, *, size: int = GIB, node: NodeId = NODE) -> Account:
    return ledger.seen(account, node, size, hours * HOUR_MS, now_s=NOW_S)


def test_what_was_seen_counts_when_an_audit_was_right() -> None:
    seen = held(held(Account(), 1), 2)
    assert (seen.byte_hours, seen.since_s) == (0, NOW_S)
    assert ledger.proven(seen, NODE).byte_hours == 3 * GIB


def test_each_supplier_proves_for_itself() -> None:
    both = held(held(Account(), 5), 7, node=OTHER)
    assert ledger.proven(both, OTHER).byte_hours == 7 * GIB
    assert ledger.proven(ledger.proven(both, OTHER), NODE).byte_hours == 12 * GIB


def test_audit_counts_nothing_twice() -> None:
    once = ledger.proven(held(Account(), 4), NODE)
    assert ledger.proven(once, NODE) == once


def test_lost_fragment_does_not_count_from_the_last_right_answer_on() -> None:
    before = ledger.proven(held(Account(), 10), NODE)
    found_lost = ledger.lost(held(before, 6), NODE, GIB // 4)
    assert ledger.proven(found_lost, NODE).byte_hours == 10 * GIB + 6 * (GIB - GIB // 4)


def test_losing_more_than_was_seen_takes_nothing_that_was_proven() -> None:
    before = ledger.proven(held(Account(), 10), NODE)
    assert ledger.proven(ledger.lost(held(before, 6), NODE, 9 * GIB), NODE).byte_hours == 10 * GIB
    assert ledger.lost(before, NODE, GIB) == before  # nothing was seen since


def test_supplier_that_is_given_up_takes_what_was_not_proven_with_it() -> None:
    assert ledger.proven(ledger.given_up(held(Account(), 8), NODE), NODE).byte_hours == 0


def test_counting_ends_and_does_not_wrap() -> None:
    account = Account()
    for _ in range(5):
        for _ in range(5):
            account = held(account, MAX_NUMBER // HOUR_MS, size=MAX_NUMBER)
        account = ledger.proven(account, NODE)
    assert account.byte_hours == MAX_NUMBER
    assert ledger.decode_account(ledger.encode_account(account)) == account
    gift = ledger.kept(ledger.kept(Gift(), MAX_NUMBER, MAX_NUMBER, now_s=1), MAX_NUMBER, MAX_NUMBER, now_s=2)
    assert ledger.decode_gift(ledger.encode_gift(gift)).byte_hours == MAX_NUMBER


def test_windows_are_bounded() -> None:
    account = Account()
    for number in range(2 * MAX_WINDOWS):
        account = held(account, 1, node=NodeId(bytes([number]) * 32))
    assert len(account.windows) == MAX_WINDOWS
    whole = Account(1, 2, 3, account.windows, SIGNED.raw, VIEW.raw)
    assert len(ledger.encode_account(whole)) == MAX_PAGE_BYTES


def test_receipt_that_is_newer_than_this_disk_is_taken_up_and_never_added() -> None:
    empty = ledger.adopted(Account(), SIGNED)
    assert (empty.byte_hours, empty.since_s, empty.receipt) == (SIGNED.byte_hours, SIGNED.since_s, SIGNED.raw)
    ahead = ledger.proven(held(Account(), 1000), NODE)
    assert ledger.adopted(ahead, SIGNED).byte_hours == 1000 * GIB
    seen = ledger.adopted(held(Account(), 5), SIGNED)
    assert ledger.proven(seen, NODE).byte_hours == SIGNED.byte_hours + 5 * GIB  # nobody has signed that yet


@pytest.mark.parametrize(
    ("signed", "counted", "expected"),
    [
        (100 * GIB, 100 * GIB, False),
        (100 * GIB, 109 * GIB, False),
        (100 * GIB, 181 * GIB, False),  # a tenth, and three days of 1 GiB
        (100 * GIB, 183 * GIB, True),
        (0, 72 * GIB, False),
        (0, 73 * GIB, True),
        (100 * GIB, 0, False),  # the supplier has lost what he counted
    ],
)
def test_counts_differ_when_the_supplier_counted_more_than_can_be_explained(
    signed: int, counted: int, expected: bool
) -> None:
    assert ledger.differs(signed=signed, counted=counted, held_bytes=GIB) is expected


windows = st.dictionaries(
    st.binary(min_size=32, max_size=32).map(NodeId),
    st.builds(Window, st.integers(0, (1 << 127) - 1), st.integers(0, MAX_NUMBER)),
    max_size=4,
)
numbers = st.integers(0, MAX_NUMBER)


@given(numbers, st.integers(0, (1 << 127) - 1), numbers, windows, st.booleans(), st.booleans())
def test_page_is_read_as_it_was_written(
    since_s: int, byte_ms: int, bytes_: int, some: dict[NodeId, Window], has_receipt: bool, has_view: bool
) -> None:
    papers = (SIGNED.raw if has_receipt else b"", VIEW.raw if has_view else b"")
    account = Account(since_s, byte_ms, bytes_, some, *papers)
    assert ledger.decode_account(ledger.encode_account(account)) == account
    gift = Gift(since_s, byte_ms, bytes_, papers[0])
    assert ledger.decode_gift(ledger.encode_gift(gift)) == gift


@given(st.binary(max_size=600))
def test_any_bytes_are_a_page_or_an_error(raw: bytes) -> None:
    for decode in (ledger.decode_account, ledger.decode_gift):
        for begun in (raw, b"\x01" + raw):
            try:
                decode(begun)
            except BadFormat:
                continue


def test_page_that_is_cut_or_of_another_version_is_refused() -> None:
    account = ledger.encode_account(Account(1, 2, 3, {NODE: Window(4, 5)}, SIGNED.raw, VIEW.raw))
    gift = ledger.encode_gift(Gift(1, 2, 3, SIGNED.raw))
    for raw, decode in ((account, ledger.decode_account), (gift, ledger.decode_gift)):
        for bent in (raw[:-1], raw + b"\0", b"\x02" + raw[1:], b""):
            with pytest.raises(BadFormat):
                decode(bent)


def test_receipt_says_whole_byte_hours() -> None:
    assert ledger.hours_of(HOUR_MS - 1) == 0
    assert ledger.hours_of(5 * HOUR_MS + 1) == 5
    assert ledger.hours_of(1 << 127) == receipt.MAX_NUMBER
