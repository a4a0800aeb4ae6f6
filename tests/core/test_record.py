"""Records: only what the key under whose hash it lies signed is one, and the newest valid one counts."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from bitdustfs.core import owner_record, record
from bitdustfs.core.address import pack_address
from bitdustfs.core.certificate import node_id
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.owner_record import Keeper, OwnerRecord
from bitdustfs.core.record import (
    CLOCK_SLACK_S,
    DAY_S,
    MAX_CONTENT_BYTES,
    MAX_LIFETIME_S,
    MAX_RECORD_BYTES,
    Record,
    RecordKind,
    addresses_of,
    newer,
    parse,
    sign,
    sign_addresses,
)
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId

NODE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
NOW_S = 1_700_000_000
ADDRESSES = ("192.0.2.1:4878", "[2001:db8::1]:4878")
RECORD_KEY = bytes(range(64, 96))
SALT = bytes(range(16))
KEEPERS = (Keeper(NodeId(b"a" * 32), "192.0.2.7:7000"), Keeper(NodeId(b"b" * 32), ""))

NO_ADDRESSES = [
    *("", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:²", "example.org:80", "::1:80"),
    *("[192.0.2.1]:80", "0.0.0.0:80", "[::]:80", "[fe80::1%eth0]:80", "[::ffff:192.0.2.1]:80", "224.0.0.1:80"),
]


def of_node(sequence: int = 1, expiry_s: int = NOW_S + DAY_S, addresses: tuple[str, ...] = ADDRESSES) -> Record:
    return sign_addresses(NODE, addresses, sequence=sequence, expiry_s=expiry_s)


def of_owner(inside: OwnerRecord, *, sequence: int = 1, salt: bytes = SALT) -> Record:
    return owner_record.seal(RECORD_KEY, inside, salt=salt, sequence=sequence, expiry_s=NOW_S + DAY_S)


def genuine(raw: bytes) -> bytes:
    """What `sign` would not make, with a genuine signature."""
    return raw + NODE.sign(b"bitdustfs 1 record\0" + raw)


def header(
    *, version: int = 1, kind: int = 1, sequence: int = 1, expiry_s: int = NOW_S + DAY_S, length: int = 0
) -> bytes:
    numbers = sequence.to_bytes(8, "big") + expiry_s.to_bytes(8, "big") + length.to_bytes(2, "big")
    return bytes([version, kind]) + public_bytes(NODE) + numbers


def test_parsing_gives_back_what_was_signed() -> None:
    made = of_node(sequence=7)
    read = parse(memoryview(made.raw))
    assert read == made
    assert (read.kind, read.sequence, read.expiry_s) == (RecordKind.NODE, 7, NOW_S + DAY_S)
    assert addresses_of(read) == ADDRESSES


def test_record_of_a_node_lies_under_its_node_id() -> None:
    made = of_node()
    assert made.signer == node_id(public_bytes(NODE))
    assert made.id == record.id_of(RecordKind.NODE, node_id(public_bytes(NODE)))
    assert made.id != record.id_of(RecordKind.OWNER, made.signer)
    assert len(made.id) == 20


def test_record_is_never_longer_than_a_datagram_may_be() -> None:
    made = sign(NODE, RecordKind.OWNER, sequence=1, expiry_s=NOW_S, content=bytes(MAX_CONTENT_BYTES))
    assert len(made.raw) == MAX_RECORD_BYTES
    with pytest.raises(BadFormat, match="884"):
        sign(NODE, RecordKind.OWNER, sequence=1, expiry_s=NOW_S, content=bytes(MAX_CONTENT_BYTES + 1))


@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_no_byte_of_a_record_can_be_changed(at: int, flip: int) -> None:
    raw = bytearray(of_node().raw)
    raw[at % len(raw)] ^= flip
    with pytest.raises(BadFormat):
        parse(bytes(raw))


@given(st.binary(max_size=MAX_RECORD_BYTES + 2))
@example(of_node().raw[:-1])
@example(of_node().raw + b"\0")
def test_no_other_bytes_are_a_record(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        header(version=2),
        header(kind=0),
        header(kind=3),
        header(sequence=0),
        header(sequence=1 << 63),
        header(expiry_s=0),
        header(expiry_s=1 << 63),
        header(length=1),
        header() + b"\0",
        header(length=1) + b"\4",
        header(length=7) + b"\4\xc0\0\2\1\0\0",  # port 0
        header(length=7) + b"\4\0\0\0\0\0\1",  # everywhere
        header(length=7) + b"\4\xe0\0\0\1\0\1",  # many
        header(length=7) + b"\4\xff\xff\xff\xff\0\1",
        header(length=7) + b"\5\xc0\0\2\1\0\1",
        header(length=19) + b"\6" + bytes(10) + b"\xff\xff\xc0\0\2\1" + b"\0\1",  # IPv4 in disguise
        header(length=63) + 9 * pack_address("192.0.2.1:1"),
    ],
)
def test_record_that_makes_no_sense_is_refused_though_it_is_signed(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        parse(genuine(raw))


@pytest.mark.parametrize(
    "address",
    NO_ADDRESSES,
)
def test_what_nobody_can_dial_is_no_address(address: str) -> None:
    with pytest.raises(BadFormat):
        pack_address(address)


def test_node_that_cannot_be_dialled_says_so_in_a_record_without_addresses() -> None:
    assert addresses_of(of_node(addresses=())) == ()


@pytest.mark.parametrize("kind", list(RecordKind))
def test_record_is_valid_until_its_expiry_and_never_longer_than_its_kind_may(kind: RecordKind) -> None:
    latest = NOW_S + MAX_LIFETIME_S[kind] + CLOCK_SLACK_S
    for expiry_s, valid in ((NOW_S, False), (NOW_S + 1, True), (latest, True), (latest + 1, False)):
        assert sign(NODE, kind, sequence=1, expiry_s=expiry_s, content=b"").is_valid(NOW_S) is valid


def test_the_valid_record_with_the_highest_sequence_counts() -> None:
    old, new = of_node(sequence=1), of_node(sequence=2)
    over, endless = of_node(sequence=3, expiry_s=NOW_S), of_node(sequence=4, expiry_s=NOW_S + 100 * DAY_S)
    assert newer(old, new, now_s=NOW_S) is newer(new, old, now_s=NOW_S) is new
    assert newer(new, over, now_s=NOW_S) is newer(endless, new, now_s=NOW_S) is new
    assert newer(None, old, now_s=NOW_S) is newer(old, None, now_s=NOW_S) is old
    assert newer(over, endless, now_s=NOW_S) is newer(None, None, now_s=NOW_S) is None


def test_of_two_records_with_one_number_the_same_is_chosen_everywhere() -> None:
    one, other = of_node(), of_node(addresses=ADDRESSES[:1])
    assert newer(one, other, now_s=NOW_S) is newer(other, one, now_s=NOW_S)


def test_owner_reads_his_record_with_nothing_but_the_record_key() -> None:
    inside = OwnerRecord(42, KEEPERS)
    made = of_owner(inside)
    assert made.id == owner_record.id_of(RECORD_KEY)
    assert owner_record.unseal(RECORD_KEY, parse(made.raw)) == inside


def test_all_records_of_owners_have_one_length() -> None:
    many = tuple(Keeper(NodeId(bytes([n]) * 32), f"[2001:db8::{n + 1}]:7000") for n in range(40))
    lengths = {len(of_owner(OwnerRecord(0, some)).raw) for some in ((), KEEPERS, many)}
    assert lengths == {MAX_RECORD_BYTES}


@pytest.mark.parametrize("address,fitting", [("192.0.2.1:7000", 21), ("[2001:db8::1]:7000", 16), ("", 25)])
def test_suppliers_that_do_not_fit_are_left_out(address: str, fitting: int) -> None:
    many = tuple(Keeper(NodeId(bytes([n]) * 32), address) for n in range(40))
    assert owner_record.unseal(RECORD_KEY, of_owner(OwnerRecord(0, many))).keepers == many[:fitting]


def test_supplier_with_a_name_for_an_address_is_named_without_one() -> None:
    named = (Keeper(NodeId(b"a" * 32), "friend.example.org:7000"),)
    assert owner_record.unseal(RECORD_KEY, of_owner(OwnerRecord(0, named))).keepers == (Keeper(named[0].node, ""),)


def test_record_of_an_owner_shows_neither_suppliers_nor_who_he_is() -> None:
    one, again = of_owner(OwnerRecord(42, KEEPERS)), of_owner(OwnerRecord(42, KEEPERS), salt=bytes(16))
    assert bytes(KEEPERS[0].node) not in one.raw
    assert one.content[16:] != again.content[16:]


def test_record_of_another_owner_is_not_read() -> None:
    with pytest.raises(BadFormat, match="not the record of this owner"):
        owner_record.unseal(bytes(32), of_owner(OwnerRecord(42, KEEPERS)))


@pytest.mark.parametrize("content", [b"", bytes(MAX_CONTENT_BYTES)])
def test_record_that_the_signing_key_signed_and_the_sealing_key_did_not_seal_is_not_read(content: bytes) -> None:
    key = owner_record.signing_key(RECORD_KEY)
    made = sign(key, RecordKind.OWNER, sequence=1, expiry_s=NOW_S + DAY_S, content=content)
    with pytest.raises(BadFormat):
        owner_record.unseal(RECORD_KEY, made)


def test_sealed_part_cannot_be_moved_under_another_number() -> None:
    key = owner_record.signing_key(RECORD_KEY)
    content = of_owner(OwnerRecord(42, KEEPERS), sequence=1).content
    moved = sign(key, RecordKind.OWNER, sequence=2, expiry_s=NOW_S + DAY_S, content=content)
    with pytest.raises(BadFormat, match="not sealed with his key"):
        owner_record.unseal(RECORD_KEY, moved)


def test_record_of_a_node_is_not_read_as_that_of_an_owner_nor_the_other_way_round() -> None:
    with pytest.raises(BadFormat):
        owner_record.unseal(RECORD_KEY, of_node())
    with pytest.raises(BadFormat):
        addresses_of(of_owner(OwnerRecord(0, KEEPERS)))
