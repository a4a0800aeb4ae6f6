"""Datagrams of the hash table: what is not exactly one is refused, and an answer proves who gave it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from bitdustfs.core import datagram
from bitdustfs.core.datagram import (
    GAIN,
    MAX_CONTACTS,
    MAX_DATAGRAM_BYTES,
    Contact,
    Find,
    Found,
    Ping,
    Pong,
    Question,
    Said,
    Store,
    Stored,
    answer,
    ask,
    dht_id,
    look,
    parse_answer,
    parse_question,
    token,
)
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.record import MAX_RECORD_BYTES
from bitdustfs.errors import BadFormat

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NUMBER = bytes(range(16))
TOKEN = b"a token!"
TARGET = bytes(range(20))
RECORD = b"r" * MAX_RECORD_BYTES
NEAR = tuple(Contact(bytes([n]) * 20, f"192.0.2.{n + 1}:7000") for n in range(MAX_CONTACTS))
QUESTIONS = [Ping(), Find(TARGET, False), Find(TARGET, True), Store(TOKEN, b"r"), Store(TOKEN, RECORD)]
SAYINGS = [Pong(), Found(), Found(b"r" * 10, NEAR[:2]), Found(b"", NEAR), Stored(True), Stored(False)]


@pytest.mark.parametrize("question", QUESTIONS, ids=repr)
def test_question_is_read_as_it_was_asked(question: Question) -> None:
    written = ask(NUMBER, question)
    assert parse_question(written) == question
    assert look(written)[1] == NUMBER


@pytest.mark.parametrize("said", SAYINGS, ids=repr)
def test_answer_is_read_as_it_was_given_and_names_its_signer(said: Said) -> None:
    got = parse_answer(answer(KEY, NUMBER, TOKEN, said, room=MAX_DATAGRAM_BYTES))
    assert (got.said, got.token, got.id) == (said, TOKEN, dht_id(public_bytes(KEY)))


@pytest.mark.parametrize("question,said", [(Ping(), Pong()), (Store(TOKEN, RECORD[:126]), Stored(True))])
def test_answer_is_at_most_three_times_its_question(question: Question, said: Said) -> None:
    asked = ask(NUMBER, question)
    assert len(answer(KEY, NUMBER, TOKEN, said, room=GAIN * len(asked))) <= GAIN * len(asked)


@pytest.mark.parametrize("record", [b"", RECORD])
def test_what_does_not_fit_is_left_out_of_an_answer(record: bytes) -> None:
    far = tuple(Contact(each.id, "[2001:db8::1]:7000") for each in NEAR)
    room = GAIN * len(ask(NUMBER, Find(TARGET, True)))
    whole = answer(KEY, NUMBER, TOKEN, Found(record, far), room=room)
    small = answer(KEY, NUMBER, TOKEN, Found(record, far), room=300)
    assert len(whole) <= room <= MAX_DATAGRAM_BYTES
    assert len(small) <= 300
    read = parse_answer(whole).said
    assert isinstance(read, Found)
    assert read.record == record


@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255), said=st.sampled_from(SAYINGS))
def test_no_byte_of_an_answer_can_be_changed(at: int, flip: int, said: Said) -> None:
    raw = bytearray(answer(KEY, NUMBER, TOKEN, said, room=MAX_DATAGRAM_BYTES))
    raw[at % len(raw)] ^= flip
    with pytest.raises(BadFormat):
        parse_answer(bytes(raw))


@given(st.binary(max_size=2000))
@example(b"\x00" + bytes(20) + b"\x91" * 2000)  # kademlia's own reads this until the stack is full
@example(b"bdh\x01\x01" + NUMBER + bytes(28))
@example(b"bdh\x01\x01" + NUMBER + b"\1" + bytes(26))
@example(b"bdh\x01\x02" + NUMBER + TARGET + b"\2" + bytes(358))
@example(b"bdh\x01\x02" + NUMBER + TARGET + b"\1" + bytes(357) + b"\1")
@example(b"bdh\x01\x02" + NUMBER + TARGET + b"\1" + bytes(357))
@example(b"bdh\x01\x03" + NUMBER + TOKEN)
@example(b"bdh\x01\x03" + NUMBER + TOKEN + bytes(1001))
@example(b"bdh\x02" + ask(NUMBER, Ping())[4:])
@example(b"bdh\x01\x04" + ask(NUMBER, Ping())[5:])
@example(answer(KEY, NUMBER, TOKEN, Pong(), room=1200))
def test_no_other_bytes_are_a_question(raw: bytes) -> None:
    try:
        question = parse_question(raw)
    except BadFormat:
        return
    assert ask(look(raw)[1], question) == raw


@pytest.mark.parametrize("record", [b"", bytes(MAX_RECORD_BYTES + 1)])
def test_store_without_a_record_or_with_too_long_a_one_is_refused(record: bytes) -> None:
    with pytest.raises(BadFormat):
        parse_question(ask(NUMBER, Store(TOKEN, record)))


def signed(kind: int, rest: bytes) -> bytes:
    """An answer that `answer` would not give, with a genuine signature."""
    front = b"bdh\x01" + bytes([kind]) + NUMBER + TOKEN + public_bytes(KEY)
    return front + KEY.sign(b"bitdustfs 1 dht answer\0" + front + rest) + rest


@pytest.mark.parametrize(
    "raw",
    [
        signed(129, b"\0"),
        signed(131, b""),
        signed(131, b"\2"),
        signed(131, b"\1\1"),
        signed(130, b""),
        signed(130, b"\0\0"),
        signed(130, b"\0\1r"),
        signed(130, b"\3\xe9" + bytes(1001) + b"\0"),
        signed(130, b"\0\0\1"),
        signed(130, b"\0\0\1" + bytes(20)),
        signed(130, b"\0\0\1" + bytes(20) + b"\5\xc0\0\2\1\0\1"),
        signed(130, b"\0\0\1" + bytes(20) + b"\4\0\0\0\0\0\1"),
        signed(130, b"\0\0\0\0"),
        signed(130, b"\0\0\x15" + 21 * (bytes(20) + b"\4\xc0\0\2\1\0\1")),
        signed(1, b""),
        ask(NUMBER, Ping()),
        b"",
    ],
)
def test_answer_that_makes_no_sense_is_refused_though_it_is_signed(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        parse_answer(raw)


def test_token_is_good_for_one_address_and_one_secret() -> None:
    tokens = {token(secret, address) for secret in (bytes(32), b"s" * 32) for address in ("a:1", "a:2", "b:1")}
    assert len(tokens) == 6
    assert {len(each) for each in tokens} == {datagram.TOKEN_BYTES}
