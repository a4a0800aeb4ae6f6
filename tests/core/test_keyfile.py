"""The key file as bytes."""

from __future__ import annotations

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.keyfile import MAGIC, NodeKeys, decode_keys, encode_keys
from bitdustfs.core.keys import VolumeKeys
from bitdustfs.errors import BadFormat

KEYS = NodeKeys(
    seed=b"\x01" * 32,
    owner_public=b"\x02" * 32,
    certificate=b"\x03" * 40,
    volume=VolumeKeys(volume=b"\x04" * 32, record=b"\x05" * 32),
)
# magic, array of 6, version 1, five byte strings, BLAKE3 of it all
VECTOR = (
    "62646b6579730a00" + "9601" + "c420" + "01" * 32 + "c420" + "02" * 32 + "c428" + "03" * 40
    + "c420" + "04" * 32 + "c420" + "05" * 32
)  # fmt: skip


def sealed(body: bytes) -> bytes:
    return body + blake3(body).digest()


def test_the_key_file_has_the_bytes_of_its_format() -> None:
    assert encode_keys(KEYS) == sealed(bytes.fromhex(VECTOR))


def test_a_key_file_is_read_back_as_it_was_written() -> None:
    assert decode_keys(encode_keys(KEYS)) == KEYS


@given(st.integers(0, len(VECTOR) // 2 + 31))
def test_a_cut_key_file_is_refused(length: int) -> None:
    with pytest.raises(BadFormat):
        decode_keys(encode_keys(KEYS)[:length])


@given(st.integers(0, (len(VECTOR) // 2 + 32) * 8 - 1))
def test_a_key_file_with_a_flipped_bit_is_refused(bit: int) -> None:
    content = bytearray(encode_keys(KEYS))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFormat):
        decode_keys(bytes(content))


@given(st.binary(max_size=300))
def test_a_foreign_file_is_refused(content: bytes) -> None:
    with pytest.raises(BadFormat):
        decode_keys(content)
    with pytest.raises(BadFormat):
        decode_keys(sealed(MAGIC + content))


def test_an_unknown_version_is_named() -> None:
    newer = sealed(MAGIC + msgspec.msgpack.encode([7, "something else"]))
    with pytest.raises(BadFormat, match="version 7; this bitdustfs reads version 1"):
        decode_keys(newer)


def test_a_key_of_a_wrong_length_is_refused() -> None:
    short = sealed(MAGIC + msgspec.msgpack.encode([1, b"a" * 31, b"b" * 32, b"c", b"d" * 32, b"e" * 32]))
    with pytest.raises(BadFormat, match="wrong length"):
        decode_keys(short)


def test_keys_are_not_shown_when_they_are_printed() -> None:
    assert repr(KEYS) == "NodeKeys(…)"
