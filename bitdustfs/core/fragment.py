"""Fragments: their names, their leaves and their roots.

A fragment is stored under a keyed name that nobody can link to its block or to the other fragments. Its root is a
BLAKE3 hash list over 16 KiB leaves: the owner knows the root from before the upload, the supplier recomputes it
before it acknowledges, and any range of leaves can be checked against it alone.
"""

from __future__ import annotations

import hmac

from blake3 import blake3

from bitdustfs.model import LEAF_BYTES, BlockId, Fingerprint, FragmentName, NodeId, Root

HASH_BYTES = 32
MAX_FRAGMENT_BYTES = 8 * 1024 * 1024  # a supplier refuses longer ones; a full block of code 1/n is a little less
_LEAF_KEY = blake3(b"bitdustfs 1 fragment leaf").digest()
_ROOT_KEY = blake3(b"bitdustfs 1 fragment root").digest()


def name(name_key: bytes, block_id: BlockId, index: int, supplier: NodeId) -> FragmentName:
    """The name of fragment `index` of a block at one supplier: a keyed hash, different at every supplier."""
    return FragmentName(blake3(block_id + index.to_bytes(2, "big") + supplier, key=name_key).digest())


def fingerprint(fingerprint_key: bytes, plaintext: bytes | memoryview) -> Fingerprint:
    """The keyed hash of a plaintext chunk. Kept in the catalog only."""
    return Fingerprint(blake3(plaintext, key=fingerprint_key).digest())


def leaf_count(length: int) -> int:
    """How many leaves a fragment of `length` bytes has."""
    return -(-length // LEAF_BYTES)


def leaf_hashes(content: bytes | memoryview) -> bytes:
    """The hash list: 32 bytes for each leaf of 16 KiB, the last one may be shorter."""
    view, hasher, hashes = memoryview(content), blake3(key=_LEAF_KEY), []
    for at in range(0, len(view), LEAF_BYTES):
        hasher.reset()  # cheaper than a new one
        hashes.append(hasher.update(view[at : at + LEAF_BYTES]).digest())
    return b"".join(hashes)


def root_of(hashes: bytes, length: int) -> Root:
    """The root over a hash list and the fragment's length in bytes."""
    return Root(blake3(length.to_bytes(8, "big") + hashes, key=_ROOT_KEY).digest())


def root(content: bytes | memoryview) -> Root:
    """The root of a whole fragment."""
    return root_of(leaf_hashes(content), len(content))


def leaves_are_genuine(hashes: bytes, first: int, content: bytes | memoryview) -> bool:
    """Say whether `content` is leaves first … of the fragment with this (already checked) hash list."""
    got = leaf_hashes(content)
    at = first * HASH_BYTES
    return hmac.compare_digest(hashes[at : at + len(got)], got)
