"""Erasure coding: any k of n fragments restore a block. The only module that knows zfec.

The code is systematic: fragments 0 … k−1 are the block itself, so a healthy read is a join. It works byte by
byte: byte j of a block's pieces depends on byte j of any k fragments, so a range is decoded from the same range
of k fragments. zfec's fragment i is the same for every n. Both are a matrix times the pieces; where `galois` can
multiply faster, zfec only says the matrix: it is what zfec makes of the unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import zfec

from bitdustfs.core import galois
from bitdustfs.model import Code

_MOST = 255  # zfec works over GF(256)


def fragment_length(block_length: int, k: int) -> int:
    """Bytes of each fragment of a block."""
    return -(-block_length // k)


def encode(block: bytes | memoryview, code: Code) -> tuple[bytes | memoryview, ...]:
    """Cut a block into `code.n` fragments, any `code.k` of which restore it.

    Args:
        block: 1 byte … BLOCK_BYTES of ciphertext; not inspected, must not change while fragments are in use.
    Returns:
        n fragments of ceil(len(block) / k) bytes; primary ones are views into the block where it divides evenly.
    Raises:
        ValueError: the block is empty.
    Source: zfec README, "Overview" (primary and secondary blocks).
    """
    return reencode(primaries(block, code.k), code.k, range(code.n))


def remake(block: bytes | memoryview, k: int, wanted: Sequence[int]) -> tuple[bytes | memoryview, ...]:
    """Make the fragments with the indexes `wanted` of a whole block again."""
    return reencode(primaries(block, k), k, wanted)


def reencode(first_k: Sequence[bytes | memoryview], k: int, wanted: Sequence[int]) -> tuple[bytes | memoryview, ...]:
    """Make the fragments with the indexes `wanted` from the k primary ones, all of one length."""
    computed = tuple(i for i in wanted if i >= k)
    made = dict(zip(computed, _encoded(tuple(first_k), k, computed), strict=True)) if computed else {}
    return tuple(first_k[i] if i < k else made[i] for i in wanted)


def decode(fragments: Mapping[int, bytes | memoryview], k: int) -> tuple[bytes | memoryview, ...]:
    """Restore the k primary fragments, or the same range of each, from any k.

    Args:
        fragments: index -> bytes, all of one length; at least k of them.
    Raises:
        ValueError: fewer than k, or of different lengths.
    """
    if len(fragments) < k:
        raise ValueError(f"{len(fragments)} fragments cannot restore a block that needs {k}")
    if len({len(f) for f in fragments.values()}) != 1:
        raise ValueError("fragments differ in length")
    chosen = sorted(fragments)[:k]
    if chosen == list(range(k)):
        return tuple(fragments[i] for i in chosen)
    # zfec wants a primary fragment at its own place in the sequence
    spares = [i for i in chosen if i >= k]
    order = tuple(i if i in fragments and i in chosen else spares.pop() for i in range(k))
    pieces = tuple(fragments[i] for i in order)
    missing = tuple(i for i in range(k) if order[i] != i)
    made = galois.sums_of_products([_decoding_rows(k, order)[i] for i in missing], pieces)
    if made is None:
        return tuple(_decoder(k).decode(pieces, order))
    restored = dict(zip(missing, made, strict=True))
    return tuple(restored.get(i, pieces[i]) for i in range(k))


def primaries(block: bytes | memoryview, k: int) -> tuple[bytes | memoryview, ...]:
    """Cut a block into its k primary fragments. Raises ValueError: it is empty."""
    if not block:
        raise ValueError("an empty block cannot be encoded")
    length = fragment_length(len(block), k)
    if length * k == len(block):
        whole = memoryview(block)
        return tuple(whole[i * length : (i + 1) * length] for i in range(k))
    return tuple(bytes(block[i * length : (i + 1) * length]).ljust(length, b"\0") for i in range(k))


def _encoded(
    first_k: tuple[bytes | memoryview, ...], k: int, wanted: tuple[int, ...]
) -> Sequence[bytes | memoryview]:
    made = galois.sums_of_products(_encoding_rows(k, wanted), first_k)
    return _encoder(k).encode(first_k, wanted) if made is None else made


@lru_cache(maxsize=64)
def _encoding_rows(k: int, wanted: tuple[int, ...]) -> tuple[bytes, ...]:
    """For each wanted fragment, by what each primary one is multiplied."""
    return tuple(_encoder(k).encode(_unit_vectors(k), wanted))


@lru_cache(maxsize=64)
def _decoding_rows(k: int, order: tuple[int, ...]) -> tuple[bytes, ...]:
    """For each primary fragment, by what the fragments are multiplied that lie there in this order."""
    return tuple(_decoder(k).decode(_unit_vectors(k), order))


def _unit_vectors(k: int) -> tuple[bytes, ...]:
    return tuple(bytes(i == j for j in range(k)) for i in range(k))


@lru_cache(maxsize=64)
def _encoder(k: int) -> zfec.Encoder:
    return zfec.Encoder(k, _MOST)


@lru_cache(maxsize=64)
def _decoder(k: int) -> zfec.Decoder:
    return zfec.Decoder(k, _MOST)
