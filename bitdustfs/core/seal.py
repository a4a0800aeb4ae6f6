"""Seal and unseal chunks: authenticated encryption under the key of their block.

Chunk i of a block is sealed with nonce i; the key is used for this block only, so a nonce never repeats under a
key. What it is, which volume, scope, block and place it belongs to, is authenticated with it, so that nothing
sealed can be taken for something else or moved to another place.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bitdustfs.core.keys import block_key, padding_key
from bitdustfs.errors import SealBroken
from bitdustfs.model import BlockId, Suite, short

FORMAT_VERSION = 1
_AAD = struct.Struct(">8sBB16sI32sI")
_MAGIC = b"bitdust\0"


class Kind(IntEnum):
    """What is sealed: nothing sealed as one of them can be taken for another."""

    CHUNK = 1  # of files
    DELTA = 2  # changes of the catalog
    MANIFEST = 3  # what an image of the catalog consists of
    IMAGE = 4  # chunks of the catalog
    HEAD = 5  # the inside of a head


class BlockSeal:
    """The sealing of one block: its key, bound to volume, scope, block id and kind.

    Args:
        volume_key: 32 bytes. volume_id: 16 bytes.
        scope: what shares one block key. block_id: 32 random bytes, new for every block.
    """

    __slots__ = ("_block_id", "_cipher", "_kind", "_padding_key", "_scope", "_volume_id")

    def __init__(
        self,
        volume_key: bytes,
        volume_id: bytes,
        scope: int,
        block_id: BlockId,
        suite: Suite,
        kind: Kind = Kind.CHUNK,
    ) -> None:
        key = block_key(volume_key, scope, block_id)
        self._cipher = AESGCM(key) if suite is Suite.AES_256_GCM else ChaCha20Poly1305(key)
        self._padding_key = padding_key(volume_key, scope, block_id)
        self._volume_id = volume_id
        self._scope = scope
        self._block_id = block_id
        self._kind = kind

    def __repr__(self) -> str:
        return f"BlockSeal({short(self._block_id)})"

    def seal(self, slot: int, plaintext: bytes | memoryview) -> bytes:
        """Encrypt the chunk of one slot. Returns ciphertext and tag, SEAL_BYTES longer."""
        return self._cipher.encrypt(_nonce(slot), plaintext, self._aad(slot))

    def seal_into(self, slot: int, plaintext: bytes | memoryview, place: memoryview) -> None:
        """The same into its place in the block, which is SEAL_BYTES longer than the plaintext."""
        self._cipher.encrypt_into(_nonce(slot), plaintext, self._aad(slot), place)

    def unseal(self, slot: int, sealed: bytes | memoryview) -> bytes:
        """Decrypt and authenticate. Raises SealBroken: not one byte of it may be used."""
        try:
            return self._cipher.decrypt(_nonce(slot), sealed, self._aad(slot))
        except InvalidTag as e:
            raise SealBroken(block=short(self._block_id), slot=slot) from e

    def padding(self, length: int) -> bytes:
        """Bytes that fill a block up. Without the key nobody can tell them from sealed ones."""
        return blake3(key=self._padding_key).digest(length=length)

    def _aad(self, slot: int) -> bytes:
        return _AAD.pack(_MAGIC, self._kind, FORMAT_VERSION, self._volume_id, self._scope, self._block_id, slot)


def _nonce(slot: int) -> bytes:
    return slot.to_bytes(12, "big")
