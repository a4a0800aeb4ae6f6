"""Receipts and the answers to them: what was signed, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import receipt
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import LAST_S
from bitdustfs.core.receipt import MAX_NUMBER, RECEIPT_BYTES, VIEW_BYTES, Told
from bitdustfs.errors import BadFormat
from bitdustfs.model import Role
from bitdustfs.testing.swarm import make_identity

CUSTOMER, SUPPLIER, STRANGER = make_identity("customer"), make_identity("supplier"), make_identity("stranger")
NOW_S = 1_790_000_000
TOLD = Told(
    serial=3,
    contract=b"c" * 32,
    customer=CUSTOMER.owner,
    supplier=SUPPLIER.owner,
    since_s=NOW_S - 3 * 86_400,
    from_s=NOW_S - 86_400,
    to_s=NOW_S,
    byte_hours=72 << 30,
    new_byte_hours=24 << 30,
    held_bytes=1 << 30,
)
SIGNED = receipt.sign(CUSTOMER, TOLD)
VIEW = receipt.sign_view(SUPPLIER, SIGNED, 73 << 30, NOW_S)


def test_parsing_gives_back_what_was_signed() -> None:
    read = receipt.parse(SIGNED.raw)
    assert (read, read.told, read.signer) == (SIGNED, TOLD, CUSTOMER.certificate)
    assert len(read.raw) == RECEIPT_BYTES == 355
    view = receipt.parse_view(VIEW.raw)
    assert (view.receipt, view.byte_hours, view.at_s) == (SIGNED.digest, 73 << 30, NOW_S)
    assert view.signer == SUPPLIER.certificate
    assert len(view.raw) == VIEW_BYTES == 251


@given(at=st.integers(0, RECEIPT_BYTES - 1), bit=st.integers(0, 7))
def test_each_changed_bit_of_a_receipt_is_refused(at: int, bit: int) -> None:
    bent = bytearray(SIGNED.raw)
    bent[at] ^= 1 << bit
    with pytest.raises(BadFormat):
        receipt.parse(bytes(bent))


@given(at=st.integers(0, VIEW_BYTES - 1), bit=st.integers(0, 7))
def test_each_changed_bit_of_an_answer_is_refused(at: int, bit: int) -> None:
    bent = bytearray(VIEW.raw)
    bent[at] ^= 1 << bit
    with pytest.raises(BadFormat):
        receipt.parse_view(bytes(bent))


@given(raw=st.binary(max_size=2 * RECEIPT_BYTES))
def test_any_bytes_are_a_receipt_or_an_error(raw: bytes) -> None:
    for parse in (receipt.parse, receipt.parse_view):
        with pytest.raises(BadFormat):
            parse(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": -1},
        {"byte_hours": MAX_NUMBER + 1},
        {"held_bytes": -1},
        {"new_byte_hours": TOLD.byte_hours + 1},
        {"from_s": TOLD.since_s - 1},
        {"to_s": TOLD.from_s - 1},
        {"to_s": LAST_S},
        {"supplier": CUSTOMER.owner},
        {"customer": STRANGER.owner},
    ],
    ids=str,
)
def test_receipt_that_makes_no_sense_cannot_be_signed(changes: dict[str, object]) -> None:
    with pytest.raises(BadFormat):
        receipt.sign(CUSTOMER, replace(TOLD, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("role", [Role.READER, Role.SUPPLIER])
def test_only_who_may_store_signs_receipts(role: Role) -> None:
    with pytest.raises(BadFormat, match="stores nothing"):
        receipt.sign(make_identity("tablet", owner="customer", role=role), TOLD)


def test_signature_for_one_purpose_is_none_for_another() -> None:
    content = SIGNED.raw[:153]
    other = content + CUSTOMER.certificate.raw + CUSTOMER.sign("contract", content)
    with pytest.raises(BadFormat, match="not genuine"):
        receipt.parse(other)


def test_largest_numbers_fit() -> None:
    told = replace(TOLD, byte_hours=MAX_NUMBER, new_byte_hours=MAX_NUMBER, held_bytes=MAX_NUMBER, serial=MAX_NUMBER)
    assert receipt.parse(receipt.sign(CUSTOMER, told).raw).told == told
    assert receipt.sign_view(SUPPLIER, SIGNED, MAX_NUMBER, LAST_S - 1).byte_hours == MAX_NUMBER
    for amount, at_s in ((MAX_NUMBER + 1, 0), (-1, 0), (0, LAST_S)):
        with pytest.raises(BadFormat):
            receipt.sign_view(SUPPLIER, SIGNED, amount, at_s)


def test_unknown_version_is_refused_by_name() -> None:
    for parse, raw in ((receipt.parse, SIGNED.raw), (receipt.parse_view, VIEW.raw)):
        with pytest.raises(BadFormat, match="version 2"):
            parse(b"\x02" + raw[1:])


def test_other_nodes_of_the_customer_may_sign() -> None:
    """A machine that burnt has signed the old ones, and another one the new ones."""
    new: Identity = make_identity("new laptop", owner="customer", epoch=2)
    assert receipt.sign(new, TOLD).signer.node == new.node
