"""What a node of the table remembers: read back as it was, or refused."""

from __future__ import annotations

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.datagram import Contact
from bitdustfs.core.dht_state import MAX_KNOWN, MAX_STATE_BYTES, DhtState, decode_state, encode_state
from bitdustfs.core.record import sign_addresses
from bitdustfs.errors import BadFormat

CONTACTS = (Contact(b"a" * 20, "192.0.2.1:7000"), Contact(b"b" * 20, "[2001:db8::1]:7000"))
RECORD = sign_addresses(Ed25519PrivateKey.from_private_bytes(bytes(32)), (), sequence=1, expiry_s=1)
STATE = DhtState(bytes(range(32)), CONTACTS, (RECORD,))


def test_state_is_read_back() -> None:
    assert decode_state(encode_state(STATE)) == STATE


def test_state_never_shows_its_key() -> None:
    assert repr(STATE) == "DhtState(2 contacts, 1 records)"


def test_state_is_never_larger_than_what_is_read() -> None:
    large = DhtState(STATE.seed, (CONTACTS[1],) * 10_000, (RECORD,) * 10_000)
    written = encode_state(large)
    assert len(written) <= MAX_STATE_BYTES
    assert len(decode_state(written).contacts) == MAX_KNOWN


@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_damaged_state_is_refused(at: int, flip: int) -> None:
    raw = bytearray(encode_state(STATE))
    raw[at % len(raw)] ^= flip
    with pytest.raises(BadFormat):
        decode_state(bytes(raw))


@given(st.integers(min_value=0, max_value=len(encode_state(STATE)) - 1))
def test_cut_state_is_refused(length: int) -> None:
    with pytest.raises(BadFormat):
        decode_state(encode_state(STATE)[:length])


def test_record_that_is_none_is_left_out() -> None:
    forged = DhtState(STATE.seed, (), (RECORD,))
    raw = encode_state(forged)
    body = raw[:-32].replace(RECORD.raw, RECORD.raw[:-1] + bytes([RECORD.raw[-1] ^ 1]))
    assert decode_state(body + blake3(body).digest()) == DhtState(STATE.seed)
