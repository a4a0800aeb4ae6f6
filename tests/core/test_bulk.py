"""Bulk frames: bytes in, content out, or a protocol violation; and never much held."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import bulk
from bitdustfs.core.bulk import OVERHEAD_BYTES, Sealer, Unsealer
from bitdustfs.errors import PeerGone, ProtocolViolation
from bitdustfs.model import BulkPass

KEY = b"k" * 32
OTHER_KEY = b"o" * 32
HEADER_BYTES = 6


def frames(*contents: bytes, last: bool = True) -> list[bytes]:
    """OPEN, the contents, and a last frame."""
    sealer = Sealer(KEY, "alice")
    made = [sealer.seal(), *(sealer.seal(content) for content in contents)]
    return [*made, sealer.seal(last=True)] if last else made


def feed(unsealer: Unsealer, stream: bytes, step: int = 1 << 20) -> bytes:
    """Let a stream come in pieces; returns the content."""
    content = b""
    while not unsealer.has_ended:
        if unsealer.ready() is not None:
            content += unsealer.unseal()
        elif not stream:
            break
        else:
            room = unsealer.room()
            some = stream[: min(step, len(room))]
            room[: len(some)] = some
            unsealer.filled(len(some))
            stream = stream[len(some) :]
    return content


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=6), st.integers(1, 200))
def test_content_comes_out_as_it_went_in(contents: list[bytes], step: int) -> None:
    unsealer = Unsealer(KEY, "alice")
    assert feed(unsealer, b"".join(frames(*contents)), step) == b"".join(contents)
    assert unsealer.has_ended


def test_longest_frame_fits() -> None:
    content = bytes(range(256)) * (bulk.MAX_FRAME_BYTES // 256)
    assert feed(Unsealer(KEY, "alice"), b"".join(frames(content))) == content


def test_content_is_put_into_its_place() -> None:
    unsealer = Unsealer(KEY, "alice")
    stream = b"".join(frames(b"hello", last=False))
    place = memoryview(bytearray(9))
    assert feed(unsealer, stream[:-1]) == b""
    assert unsealer.ready() is None
    assert len(unsealer.room()) == 1
    unsealer.room()[:] = stream[-1:]
    unsealer.filled(1)
    assert unsealer.ready() == 5
    assert unsealer.unseal_into(place) == 5
    assert bytes(place) == b"hello\0\0\0\0"


def test_no_more_is_taken_in_than_the_longest_frame_so_far() -> None:
    unsealer = Unsealer(KEY, "alice")
    assert len(unsealer.room()) == OVERHEAD_BYTES
    feed(unsealer, b"".join(frames(bytes(1000), b"short", last=False)))
    assert len(unsealer.room()) == OVERHEAD_BYTES + 1000


@pytest.mark.parametrize("frame", [0, 1, 2, 3])
def test_flipped_bit_anywhere_is_a_violation(frame: int) -> None:
    whole = frames(b"hello", b"world")
    for bit in range(len(whole[frame]) * 8):
        bent = bytearray(whole[frame])
        bent[bit // 8] ^= 1 << bit % 8
        unsealer = Unsealer(KEY, "alice")
        try:
            got = feed(unsealer, b"".join([*whole[:frame], bytes(bent), *whole[frame + 1 :]]))
        except ProtocolViolation:
            continue
        # Another length, and the stream ends before the frame that it announces.
        assert not unsealer.has_ended and got in (b"", b"hello", b"helloworld")


@pytest.mark.parametrize(
    "order",
    [(0, 2, 1, 3), (0, 1, 1, 2, 3), (0, 2, 3), (1, 2, 3), (0, 0, 1, 2, 3), (0, 1, 3), (0, 1, 2, 0)],
    ids=["swapped", "repeated", "first left out", "no OPEN", "OPEN twice", "second left out", "OPEN again"],
)
def test_frames_in_another_order_are_a_violation(order: tuple[int, ...]) -> None:
    whole = frames(b"hello", b"world")
    with pytest.raises(ProtocolViolation):
        feed(Unsealer(KEY, "alice"), b"".join(whole[i] for i in order))


def test_frames_of_another_key_are_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        feed(Unsealer(OTHER_KEY, "alice"), b"".join(frames(b"hello")))


@pytest.mark.parametrize("missing", [1, OVERHEAD_BYTES, OVERHEAD_BYTES + 3])
def test_stream_that_is_cut_has_not_ended(missing: int) -> None:
    unsealer = Unsealer(KEY, "alice")
    feed(unsealer, b"".join(frames(b"hello", b"world"))[:-missing])
    assert not unsealer.has_ended


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">BBI", bulk.Kind.CONTENT, 0, bulk.MAX_FRAME_BYTES + 1),
        struct.pack(">BBI", bulk.Kind.CONTENT, 0, 2**32 - 1),
        struct.pack(">BBI", bulk.Kind.CONTENT, 0, 0),
        struct.pack(">BBI", bulk.Kind.CONTENT, 2, 5),
        struct.pack(">BBI", bulk.Kind.OPEN, 0, 0),
        struct.pack(">BBI", 3, 0, 5),
    ],
    ids=["too long", "bomb", "empty", "no flag", "OPEN again", "no kind"],
)
def test_header_that_makes_no_sense_ends_the_stream_before_anything_is_kept(header: bytes) -> None:
    unsealer = Unsealer(KEY, "alice")
    feed(unsealer, frames()[0])
    unsealer.room()[:HEADER_BYTES] = header
    unsealer.filled(HEADER_BYTES)
    with pytest.raises(ProtocolViolation):
        unsealer.room()
    with pytest.raises(ProtocolViolation):
        unsealer.ready()


@given(st.binary(max_size=200), st.integers(1, 40), st.booleans())
def test_no_bytes_crash_the_unsealer(stream: bytes, step: int, is_open: bool) -> None:
    unsealer = Unsealer(KEY, "alice")
    if is_open:
        feed(unsealer, frames(last=False)[0])
    try:
        assert feed(unsealer, stream, step) == b""
    except ProtocolViolation:
        pass


def test_worn_out_key_seals_no_more() -> None:
    sealer = Sealer(KEY, "alice", most=2)
    sealer.seal()
    sealer.seal(b"the last one")
    with pytest.raises(PeerGone):
        sealer.seal(b"one too many")


def test_opening_names_its_ticket() -> None:
    given = BulkPass(b"t" * 16, KEY, OTHER_KEY)
    assert bulk.ticket_of(bulk.opening(given)) == given.ticket
    assert len(bulk.opening(given)) == bulk.OPENING_BYTES
    assert bulk.ticket_of(b"GET / HTTP/1.1\r\nHost: a"[: bulk.OPENING_BYTES]) is None
    assert bulk.opening(given)[0] != 0x16  # of TLS


def test_nothing_of_a_key_is_shown() -> None:
    given = BulkPass(b"t" * 16, KEY, OTHER_KEY)
    shown = repr((given, Sealer(KEY, "alice"), Unsealer(KEY, "alice")))
    assert "kkkk" not in shown and "oooo" not in shown and "tttt" not in shown
