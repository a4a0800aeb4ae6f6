"""What is sealed opens only as itself, in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core.seal import BlockSeal
from bitdustfs.errors import SealBroken
from bitdustfs.model import SEAL_BYTES, BlockId, Suite

VOLUME_KEY = bytes.fromhex("1b5af8ad30b1957440188ae03803369c6ac4720e1bc6a575c74110dfdf6c0e30")
VOLUME_ID = bytes.fromhex("3e121bad161cd4b70df44a4806ecec5d")
BLOCK_ID = BlockId(bytes(range(32, 64)))
suites = st.sampled_from(Suite)


def seal_of(
    *, key: bytes = VOLUME_KEY, volume: bytes = VOLUME_ID, scope: int = 1, block: BlockId = BLOCK_ID,
    suite: Suite = Suite.AES_256_GCM,
) -> BlockSeal:  # fmt: skip
    return BlockSeal(key, volume, scope, block, suite)


@pytest.mark.parametrize(
    ("suite", "slot", "sealed"),
    [
        (Suite.AES_256_GCM, 0, "446e5924cb3c11b7003c6851a247cc6141d51196f4"),
        (Suite.AES_256_GCM, 1, "1f26b9ec82e5b57314d4f3d3328884bd25eb079d17"),
        (Suite.CHACHA20_POLY1305, 0, "7dd38628ab5dcbb2defefba2fd14f5246500139668"),
        (Suite.CHACHA20_POLY1305, 1, "460b40e6e193e4da49bc648d29e468e041fec93657"),
    ],
)
def test_sealed_chunk_never_changes_its_format(suite: Suite, slot: int, sealed: str) -> None:
    assert seal_of(suite=suite).seal(slot, b"hello").hex() == sealed


@given(st.binary(max_size=1000), st.integers(0, 4000), suites)
def test_unsealed_chunk_is_what_was_sealed(plaintext: bytes, slot: int, suite: Suite) -> None:
    sealed = seal_of(suite=suite).seal(slot, plaintext)
    assert len(sealed) == len(plaintext) + SEAL_BYTES
    assert seal_of(suite=suite).unseal(slot, sealed) == plaintext
    assert seal_of(suite=suite).unseal(slot, memoryview(sealed)) == plaintext


@given(st.binary(min_size=1, max_size=100), suites, st.data())
def test_one_flipped_bit_is_refused(plaintext: bytes, suite: Suite, data: st.DataObject) -> None:
    sealed = bytearray(seal_of(suite=suite).seal(0, plaintext))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        seal_of(suite=suite).unseal(0, bytes(sealed))


@given(st.binary(max_size=15), suites)
def test_what_is_shorter_than_a_tag_is_refused(sealed: bytes, suite: Suite) -> None:
    with pytest.raises(SealBroken):
        seal_of(suite=suite).unseal(0, sealed)


@pytest.mark.parametrize(
    "other",
    [
        seal_of(key=b"k" * 32),
        seal_of(volume=b"v" * 16),
        seal_of(scope=2),
        seal_of(block=BlockId(b"b" * 32)),
        seal_of(suite=Suite.CHACHA20_POLY1305),
    ],
)
def test_chunk_of_another_key_volume_scope_block_or_suite_is_refused(other: BlockSeal) -> None:
    with pytest.raises(SealBroken):
        seal_of().unseal(0, other.seal(0, b"hello"))


def test_chunk_moved_to_another_slot_is_refused() -> None:
    with pytest.raises(SealBroken, match="slot 1"):
        seal_of().unseal(1, seal_of().seal(0, b"hello"))


def test_representation_shows_no_key() -> None:
    assert repr(seal_of()) == "BlockSeal(20212223)"
