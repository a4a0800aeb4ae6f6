"""Fragments: names nobody can link, and leaves that prove themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import fragment
from bitdustfs.core.fragment import HASH_BYTES
from bitdustfs.model import LEAF_BYTES, BlockId, NodeId

NAME_KEY = bytes.fromhex("d7bcb69acf18b6e9f92576918892aad244ee1e0397d7f06c5be0060a819198e5")
FINGERPRINT_KEY = bytes.fromhex("a26ee7c1e8885c872bbc79723546b96456204d95adf372ed7700ecd99ac46961")
BLOCK_ID = BlockId(bytes(range(32, 64)))
NODE_ID = NodeId(bytes(range(64, 96)))
ids = st.binary(min_size=32, max_size=32)
lengths = st.integers(0, 4 * LEAF_BYTES + 1)


def test_name_never_changes_its_format() -> None:
    made = fragment.name(NAME_KEY, BLOCK_ID, 3, NODE_ID)
    assert made.hex() == "cb63411aa974be9e5ea62ac44d7628ace6bba1fed19f240e819d2da3c96ffb67"


def test_fingerprint_never_changes_its_format() -> None:
    made = fragment.fingerprint(FINGERPRINT_KEY, b"hello")
    assert made.hex() == "117216dc11aa75b6457ec7afa627dc7986fabd67728a074c5ae6efa544a870e0"


def test_root_never_changes_its_format() -> None:
    assert {name: fragment.root(content).hex() for name, content in ROOTS.items()} == {
        "nothing": "dc86fc07ffcf91cda3ecc41fb7cb8d492cf2e09c265f3c0126f5e6b378189105",
        "a word": "0a67bfbd41353836e1b78926501352042ef7a03ee05dff9b3c8a6f95ec04dd25",
        "two leaves": "45e3fa98e7c944e8543642c80e97c96fceb31c75dbdf73e349c44b0c1e2d12ea",
    }


ROOTS = {"nothing": b"", "a word": b"hello", "two leaves": bytes(LEAF_BYTES + 1)}


@given(ids, st.integers(0, 255), st.integers(0, 255), ids, ids)
def test_names_differ_by_block_index_and_supplier(block: bytes, one: int, other: int, a: bytes, b: bytes) -> None:
    places = {(block, one, a), (block, other, a), (block, one, b), (a, one, b)}
    names = {fragment.name(NAME_KEY, BlockId(x), index, NodeId(y)) for x, index, y in places}
    assert len(names) == len(places)


def test_names_and_fingerprints_need_their_key() -> None:
    assert fragment.name(b"k" * 32, BLOCK_ID, 3, NODE_ID) != fragment.name(NAME_KEY, BLOCK_ID, 3, NODE_ID)
    assert fragment.fingerprint(b"k" * 32, b"hello") != fragment.fingerprint(FINGERPRINT_KEY, b"hello")


@given(lengths)
def test_hash_list_has_one_hash_for_each_leaf(length: int) -> None:
    hashes = fragment.leaf_hashes(bytes(length))
    assert len(hashes) == fragment.leaf_count(length) * HASH_BYTES
    assert fragment.root(bytes(length)) == fragment.root_of(hashes, length)


@pytest.mark.slow
@given(st.data(), st.integers(1, 3 * LEAF_BYTES + 7))
def test_any_run_of_leaves_proves_itself_and_nothing_else_does(data: st.DataObject, length: int) -> None:
    content = data.draw(st.randoms(use_true_random=False)).randbytes(length)
    hashes = fragment.leaf_hashes(content)
    first = data.draw(st.integers(0, fragment.leaf_count(length) - 1))
    last = data.draw(st.integers(first, fragment.leaf_count(length) - 1))
    run = content[first * LEAF_BYTES : (last + 1) * LEAF_BYTES]
    flipped = bytearray(run)
    flipped[data.draw(st.integers(0, len(run) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert fragment.leaves_are_genuine(hashes, first, run)
    assert not fragment.leaves_are_genuine(hashes, first, bytes(flipped))
    assert not fragment.leaves_are_genuine(hashes, first + 1, run)
    assert not fragment.leaves_are_genuine(hashes, first, run + b"\0" * LEAF_BYTES)


def test_root_tells_a_fragment_from_one_with_zeros_behind_it() -> None:
    assert len({fragment.root(bytes(length)) for length in range(LEAF_BYTES - 2, LEAF_BYTES + 3)}) == 5
