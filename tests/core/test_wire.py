"""Wire: bytes in, events out, or a protocol violation."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdustfs.core import wire
from bitdustfs.core.agreement import MAX_HELD
from bitdustfs.core.certificate import CERTIFICATE_BYTES
from bitdustfs.core.contract import CONTRACT_BYTES
from bitdustfs.core.framing import Arriving, Frame, Parser
from bitdustfs.core.head import LINK_BYTES, MAX_HEAD_BYTES, MAX_KEPT_BYTES
from bitdustfs.core.invited import MAX_ADDRESSES
from bitdustfs.core.record import MAX_RECORD_BYTES
from bitdustfs.errors import ProtocolViolation

NAME = b"\x11" * 32
ROOT = b"\x22" * 32

EVERY_MESSAGE: list[tuple[wire.Message, bytes]] = [
    (wire.Hello(1, b"certificate", ("bulk",), "bitdustfs 0.1"), b""),
    (wire.Ping(), b""),
    (wire.Put(NAME, ROOT, 5, 1, 7), b"hello"),
    (wire.Get(NAME, 2, 3, True), b""),
    (wire.Delete((NAME, ROOT), 1, 7), b""),
    (wire.List(b"", 1024), b""),
    (wire.Stat(), b""),
    (wire.Propose(b"contract"), b""),
    (wire.Bulk(ROOT), b""),
    (wire.PutHead(4, 1), b"head" + bytes(2 * LINK_BYTES)),
    (wire.GetHead(), b""),
    (wire.HeadIs(4), b"head"),
    (wire.Hold(NAME[:16], 600, True, False, True), b""),
    (wire.Holds(False, NAME, 600, b""), b""),
    (wire.Done(), b""),
    (wire.Found(40_000, 0), b"leaf"),
    (wire.Deleted(2), b""),
    (wire.Listed(((NAME, 40_000),)), b""),
    (wire.Status(1, 2, 3, 4, 5, 6, b"contract"), b""),
    (wire.Agreed(b"contract"), b""),
    (wire.Refusal(wire.Refused.QUOTA, "full"), b""),
    (wire.Ticket(NAME[:16], ROOT), b""),
    (wire.Knock(NAME[:16], ROOT), b""),
    (wire.Challenge(ROOT), b""),
    (wire.Join(NAME[:16], ROOT, ("192.0.2.7:4878",), b"contract"), b""),
    (wire.Joined(ROOT, 1, 2, b"contract", True, "192.0.2.7:50000", ""), b""),
]
# Vectors that must never change: frames with id 7, of PUT with its body.
VECTORS = {
    "Ping": ("000000040000000092079101"),
    "Put": (
        "0000004b0000000592079602c4201111111111111111111111111111111111111111111111111111111111111111c4202222"
        "22222222222222222222222222222222222222222222222222222222222205010768656c6c6f"
    ),
    "Get": ("000000290000000092079503c42011111111111111111111111111111111111111111111111111111111111111110203c3"),
    "Refusal": ("0000000e00000000920795cc8603a466756c6c00c400"),
    "PutHead": (
        "0000000600000138920793090401686561640000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000"
    ),
    "GetHead": "00000004000000009207910a",
    "HeadIs": "0000000600000004920792cc880468656164",
}


def opened() -> Parser:
    parser = Parser("peer")
    parser.open_up(lambda: False)
    return parser


def events(parser: Parser) -> list[Arriving | Frame]:
    found = []
    while (event := parser.next()) is not None:
        found.append(event)
    return found


def raw_frame(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", len(header), len(body)) + header + body


@pytest.mark.parametrize("message,body", EVERY_MESSAGE, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_as_it_was(message: wire.Message, body: bytes) -> None:
    parser = opened()
    parser.feed(wire.encode(7, message, len(body)) + body)
    assert events(parser)[-1] == Frame(7, message, body)
    assert parser.is_between_frames


@pytest.mark.parametrize("name", VECTORS)
def test_frames_have_the_bytes_they_always_had(name: str) -> None:
    message, body = next(sample for sample in EVERY_MESSAGE if type(sample[0]).__name__ == name)
    assert (wire.encode(7, message, len(body)) + body).hex() == VECTORS[name]


@pytest.mark.slow
@given(st.lists(st.sampled_from(EVERY_MESSAGE), max_size=8), st.data())
def test_frames_do_not_depend_on_how_the_stream_was_cut(
    sent: list[tuple[wire.Message, bytes]], data: st.DataObject
) -> None:
    """F50: in writes of one byte too."""
    stream = b"".join(wire.encode(i, message, len(body)) + body for i, (message, body) in enumerate(sent))
    parser = opened()
    found: list[Frame] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        parser.feed(stream[at : at + step])
        found += [e for e in events(parser) if isinstance(e, Frame)]
        at += step
    assert [(f.message, f.body) for f in found] == sent


@given(st.integers(1, 300_000), st.integers(1, 70_000))
@settings(max_examples=25)
def test_long_body_is_joined_from_crumbs(length: int, step: int) -> None:
    body = bytes(i % 251 for i in range(length))
    step = max(step, length // 500)
    stream = wire.encode(1, wire.Put(NAME, ROOT, length, 0, 0), length) + body
    parser = opened()
    found: list[Arriving | Frame] = []
    for at in range(0, len(stream), step):
        parser.feed(stream[at : at + step])
        found += events(parser)
    assert isinstance(found[0], Arriving)
    assert found[1] == Frame(1, wire.Put(NAME, ROOT, length, 0, 0), body)


def test_body_is_announced_before_it_comes() -> None:
    parser = opened()
    parser.feed(wire.encode(1, wire.Put(NAME, ROOT, 5, 0, 0), 5))
    assert parser.next() == Arriving(1, wire.Put(NAME, ROOT, 5, 0, 0), 5)
    assert parser.next() is None


@pytest.mark.parametrize("early", [0, 1, 4])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_body_is_put_into_its_place_from_both_ways(early: int, step: int) -> None:
    put = wire.Put(NAME, ROOT, 5, 0, 0)
    parser = opened()
    parser.feed(wire.encode(1, put, 5) + b"hello"[:early])
    assert isinstance(parser.next(), Arriving)
    assert parser.room() is None  # nobody has decided yet
    assert parser.next() is None
    rest = b"hello"[early:]
    while (room := parser.room()) is not None:
        assert len(room) == len(rest)
        some, rest = rest[:step], rest[step:]
        room[: len(some)] = some
        parser.filled(len(some))
    parser.feed(wire.encode(2, wire.Ping()))
    assert events(parser) == [Frame(1, put, b"hello"), Frame(2, wire.Ping(), b"")]


@pytest.mark.parametrize("here", [0, 1, 5])
def test_skipped_body_leaves_the_next_frame_whole(here: int) -> None:
    put = wire.Put(NAME, ROOT, 5, 0, 0)
    stream = wire.encode(1, put, 5) + b"hello" + wire.encode(2, wire.Ping())
    cut = len(stream) - len(wire.encode(2, wire.Ping())) - 5 + here
    parser = opened()
    parser.feed(stream[:cut])
    assert isinstance(parser.next(), Arriving)
    parser.skip()
    rest = events(parser)
    for at in range(cut, len(stream)):
        parser.feed(stream[at : at + 1])
        rest += events(parser)
    assert rest == [Frame(1, put, b""), Frame(2, wire.Ping(), b"")]


@pytest.mark.parametrize(
    "header_bytes,body_bytes",
    [(0, 0), (wire.MAX_HEADER_BYTES + 1, 0), (2**32 - 1, 0), (10, wire.MAX_BODY_BYTES + 1), (10, 2**32 - 1)],
)
def test_length_out_of_bounds_ends_the_stream_before_anything_is_kept(header_bytes: int, body_bytes: int) -> None:
    """F50: lengths."""
    parser = opened()
    parser.feed(struct.pack(">II", header_bytes, body_bytes))
    with pytest.raises(ProtocolViolation):
        parser.next()


@pytest.mark.parametrize("header_bytes,body_bytes", [(wire.HELLO_HEADER_BYTES + 1, 0), (10, 1)])
def test_before_hello_only_a_small_frame_is_allowed(header_bytes: int, body_bytes: int) -> None:
    parser = Parser("stranger")
    parser.feed(struct.pack(">II", header_bytes, body_bytes))
    with pytest.raises(ProtocolViolation):
        parser.next()


def encoded(header: object) -> bytes:
    return msgspec.msgpack.encode(header)


@pytest.mark.parametrize(
    "header",
    [
        b"\x91" * 60_000,
        b"\x81\xa0" * 20_000,
        encoded([1, [99]]),
        encoded([1, [1, 0]]),
        encoded([1, [1], 0]),
        encoded([1]),
        encoded([-1, [1]]),
        encoded([2**32, [1]]),
        encoded([1.5, [1]]),
        encoded({"id": 1, "message": [1]}),
        encoded([1, [3, NAME[:-1], 0, 1, False]]),
        encoded([1, [3, NAME, 0, 1, 1]]),
        encoded([1, [3, NAME, 0, float("nan"), True]]),
        encoded([1, [4, [], 0, 0]]),
        encoded([1, [4, [NAME] * (wire.MAX_NAMES + 1), 0, 0]]),
        encoded([1, [5, b"", wire.MAX_NAMES + 1]]),
        encoded([1, [6]]) + b"\x00",
        encoded([1, [6]])[:-1],
        encoded([1, [8, NAME[:-1]]]),
        encoded([1, [9, 0, 0]]),
        encoded([1, [9, MAX_HEAD_BYTES + 1, 0]]),
        encoded([1, [9, 10_000_000, 0]]),
        encoded([1, [9, 303, 2**63]]),
        encoded([1, [9, 303]]),
        encoded([1, [10, 0]]),
        encoded([1, [136, b""]]),
        encoded([1, [134, 12, "behind", 2**63]]),
        encoded([1, [134, 12, "behind", -1]]),
        encoded([1, [134, 12, "behind", 1, 1]]),
        encoded([1, [135, NAME, ROOT]]),
        encoded([1, [134, 99, "text"]]),
        encoded([1, [134, 1, "x" * 201]]),
        encoded([1, [134, 1]])[:-1] + b"\xa1\xff",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_header_that_is_no_message_is_a_violation(header: bytes) -> None:
    """F51: nests, wrong types, more or fewer fields, bytes behind the end."""
    parser = opened()
    parser.feed(raw_frame(header))
    with pytest.raises(ProtocolViolation):
        parser.next()


@pytest.mark.parametrize(
    "message,body_bytes",
    [
        (wire.Put(NAME, ROOT, 5, 0, 0), 4),
        (wire.Put(NAME, ROOT, 5, 0, 0), 0),
        (wire.Ping(), 1),
        (wire.Found(10, 64), 32),
        (wire.Done(), 3),
        (wire.PutHead(5, 0), 4),
        (wire.PutHead(5, 0), 5 + LINK_BYTES - 1),
        (wire.PutHead(5, 0), 5 + LINK_BYTES + 1),
        (wire.GetHead(), 1),
        (wire.HeadIs(4), MAX_KEPT_BYTES + 1),
        (wire.HeadIs(4), 3),
        (wire.HeadIs(4), 5),
    ],
)
def test_body_must_fit_its_message(message: wire.Message, body_bytes: int) -> None:
    parser = opened()
    parser.feed(wire.encode(1, message, body_bytes))
    with pytest.raises(ProtocolViolation):
        parser.next()


@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_no_bytes_crash_the_parser(pieces: list[bytes], is_open: bool) -> None:
    parser = opened() if is_open else Parser("stranger")
    try:
        for piece in pieces:
            parser.feed(piece)
            events(parser)
    except ProtocolViolation:
        pass


@given(st.binary(max_size=120))
def test_no_header_crashes_the_parser(header: bytes) -> None:
    parser = opened()
    parser.feed(raw_frame(header or b"\0"))
    try:
        events(parser)
    except ProtocolViolation:
        pass


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(NESTED, st.integers(0, 16) | st.integers(126, 140))
def test_no_structure_crashes_the_parser(fields: object, tag: int) -> None:
    """F51: whatever msgpack can say."""
    parser = opened()
    message = [tag, *fields] if isinstance(fields, list) else fields
    parser.feed(raw_frame(encoded([1, message])))
    try:
        events(parser)
    except ProtocolViolation:
        pass


def test_longest_honest_messages_fit_a_header() -> None:
    listed = wire.Listed(tuple((NAME, 8 * 1024 * 1024) for _ in range(wire.MAX_NAMES)))
    delete = wire.Delete((NAME,) * wire.MAX_NAMES, 2**63 - 1, 2**63 - 1)
    for message in (listed, delete):
        parser = opened()
        parser.feed(wire.encode(2**32 - 1, message))
        assert parser.next() == Frame(2**32 - 1, message, b"")


def test_stranger_may_send_no_long_header() -> None:
    is_stranger = True
    parser = Parser("stranger")
    parser.open_up(lambda: is_stranger)
    assert parser.most_at_once == wire.STRANGER_HEADER_BYTES
    longest = raw_frame(b"\xc1" * wire.STRANGER_HEADER_BYTES)[:8]
    too_long = raw_frame(b"\xc1" * (wire.STRANGER_HEADER_BYTES + 1))[:8]
    parser.feed(longest)
    assert parser.next() is None
    parser = Parser("stranger")
    parser.open_up(lambda: is_stranger)
    parser.feed(too_long)
    with pytest.raises(ProtocolViolation, match="a header of 16385 bytes"):
        parser.next()


def test_stranger_who_becomes_a_friend_may_send_a_long_header() -> None:
    is_stranger = True
    parser = Parser("stranger")
    parser.open_up(lambda: is_stranger)
    parser.feed(wire.encode(1, wire.Ping()))
    assert parser.next() == Frame(1, wire.Ping(), b"")
    is_stranger = False
    delete = wire.Delete((NAME,) * wire.MAX_NAMES, 0, 0)
    parser.feed(wire.encode(2, delete))
    assert parser.next() == Frame(2, delete, b"")


def test_longest_honest_messages_of_a_stranger_fit_his_header() -> None:
    signed = b"c" * CONTRACT_BYTES
    for message in (
        wire.Compare((signed,) * MAX_HELD),
        wire.Propose(signed),
        wire.Join(b"m" * 16, b"p" * 32, ("a" * 64,) * MAX_ADDRESSES, signed),
        wire.Here(b"r" * MAX_RECORD_BYTES, "a" * 64),
    ):
        parser = Parser("stranger")
        parser.open_up(lambda: True)
        parser.feed(wire.encode(1, message))
        assert parser.next() == Frame(1, message, b"")


def test_hello_fits_the_budget_of_strangers() -> None:
    hello = wire.Hello(2**32 - 1, b"c" * 1024, ("f" * 64,) * 16, "s" * 64)
    parser = Parser("stranger")
    parser.feed(wire.encode(0, hello))
    assert parser.next() == Frame(0, hello, b"")


def test_every_request_has_its_answer() -> None:
    assert set(wire.ANSWERS) == set(wire.Request.__args__)


def test_text_of_a_peer_does_not_reach_a_terminal_as_it_is() -> None:
    assert wire.printable("full\x1b[2J\n…") == "full\\x1b[2J\\n…"


def test_keys_of_a_bulk_connection_are_not_shown() -> None:
    assert "1111" not in (shown := repr((wire.Bulk(b"1" * 32), wire.Ticket(b"1" * 16, b"1" * 32)))), shown


def test_answer_with_a_head_is_bounded() -> None:
    assert wire.most_body(wire.GetHead()) == MAX_KEPT_BYTES
    assert wire.most_body(wire.PutHead(1, 0)) == 0
    assert wire.most_body(wire.Get(NAME, 0, 2**32 - 1, True)) == wire.MAX_BODY_BYTES


def test_proof_of_a_refusal_is_no_longer_than_a_certificate() -> None:
    refusal = wire.Refusal(wire.Refused.STALE, "old", 2, b"c" * CERTIFICATE_BYTES)
    parser = opened()
    parser.feed(wire.encode(1, refusal))
    assert parser.next() == Frame(1, refusal, b"")
    parser.feed(raw_frame(encoded([1, [134, 8, "old", 2, b"c" * (CERTIFICATE_BYTES + 1)]])))
    with pytest.raises(ProtocolViolation):
        parser.next()


def test_refusal_without_a_detail_has_none() -> None:
    parser = opened()
    parser.feed(raw_frame(encoded([1, [134, 3, "full"]])))
    assert parser.next() == Frame(1, wire.Refusal(wire.Refused.QUOTA, "full", 0), b"")
