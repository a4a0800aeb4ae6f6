"""Keys: from 24 words to one key for each purpose.

recovery phrase (core/phrase) -> 32-byte secret R -> HKDF-SHA256 with one label per purpose. One key, one purpose,
and its label says so. R and the owner's signing key are never stored; `VolumeKeys` is what a mounted machine keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bitdustfs.model import BlockId, OwnerId

SECRET_BYTES = 32
_SALT = b"bitdustfs 1"


@dataclass(frozen=True, slots=True)
class Secret:
    """R, the one secret from which everything comes back. Never stored, never shown by accident."""

    content: bytes

    def __repr__(self) -> str:
        return "Secret(…)"


@dataclass(frozen=True, slots=True)
class VolumeKeys:
    """What a machine keeps to read and write its volume. 32 bytes each."""

    volume: bytes  # sealing and fragment names derive from it
    record: bytes  # signs and seals the owner's record in the DHT

    def __repr__(self) -> str:
        return "VolumeKeys(…)"


def derive(key: bytes, label: str, context: bytes = b"", length: int = 32) -> bytes:
    """Derive a key for one purpose from a uniformly random key.

    Args:
        key: 32 bytes.
        label: the purpose; constant in the program.
        context: ids that the derived key belongs to; fixed length for one label.
    Source: RFC 5869, HKDF-Expand with SHA-256.
    """
    return HKDFExpand(SHA256(), length, b"bitdustfs 1 " + label.encode() + b"\0" + context).derive(key)


def _purpose(secret: Secret, label: str) -> bytes:
    return HKDF(SHA256(), 32, salt=_SALT, info=label.encode()).derive(secret.content)


def owner_key(secret: Secret) -> Ed25519PrivateKey:
    """The owner's signing key. In memory only, and only while a person gave the words."""
    return Ed25519PrivateKey.from_private_bytes(_purpose(secret, "owner signing key"))


def volume_keys(secret: Secret) -> VolumeKeys:
    """The keys that a mounted machine keeps."""
    return VolumeKeys(volume=_purpose(secret, "volume key"), record=_purpose(secret, "record key"))


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw bytes of the public half."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@lru_cache(maxsize=1024)  # every request asks for the owner of its connection
def owner_id(public: bytes) -> OwnerId:
    """The owner's id: SHA-256 over a label and the owner's 32-byte public key."""
    return OwnerId(sha256(b"bitdustfs 1 owner id\0" + public).digest())


def block_key(volume_key: bytes, scope: int, block_id: BlockId) -> bytes:
    """The key of one block: used for this block and for nothing else (invariant I5)."""
    return derive(volume_key, "block", scope.to_bytes(4, "big") + block_id)


def padding_key(volume_key: bytes, scope: int, block_id: BlockId) -> bytes:
    """The key of the bytes that fill one block up, so that they look like sealed ones."""
    return derive(volume_key, "block padding", scope.to_bytes(4, "big") + block_id)


def name_key(volume_key: bytes) -> bytes:
    """The key that makes fragment names unlinkable."""
    return derive(volume_key, "fragment name")


def fingerprint_key(volume_key: bytes, scope: int) -> bytes:
    """The key of chunk fingerprints in one scope."""
    return derive(volume_key, "fingerprint", scope.to_bytes(4, "big"))


def volume_id(volume_key: bytes) -> bytes:
    """16 bytes that name the volume in everything sealed for it."""
    return derive(volume_key, "volume id", length=16)


def volume_handle(volume_key: bytes) -> bytes:
    """16 bytes that name the volume in the clear part of its heads; nobody can tell what else belongs to it."""
    return derive(volume_key, "volume handle", length=16)
