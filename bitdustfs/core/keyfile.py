"""The key file: what one machine keeps to be a node of its owner.

Bytes: the magic `bdkeys\\n\\x00`, then a msgpack array [version, node seed, owner public key, certificate, volume
key, record key], then BLAKE3 of everything before it. R and the owner's signing key are never in it. The digest finds
a damaged or half-written file; it is no protection against somebody who can write it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from blake3 import blake3

from bitdustfs.core.keys import SECRET_BYTES, VolumeKeys
from bitdustfs.errors import BadFormat

MAGIC = b"bdkeys\n\0"
VERSION = 1
KEY_FILE_BYTES = 16 * 1024  # more than any certificate chain needs: what is longer is no key file
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The keys of one node. 32 bytes each, but the certificate."""

    seed: bytes  # private, of the node's Ed25519 key
    owner_public: bytes  # of the owner who certified it
    certificate: bytes  # what the owner signed: this node, its role, an epoch
    volume: VolumeKeys

    def __repr__(self) -> str:
        return "NodeKeys(…)"


class _Version(msgspec.Struct, array_like=True, frozen=True):
    """Only the first element: what is after it depends on it."""

    version: int


class _Layout(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: int
    seed: bytes
    owner_public: bytes
    certificate: bytes
    volume: bytes
    record: bytes


def encode_keys(keys: NodeKeys) -> bytes:
    """Write a key file."""
    layout = _Layout(VERSION, keys.seed, keys.owner_public, keys.certificate, keys.volume.volume, keys.volume.record)
    body = MAGIC + msgspec.msgpack.encode(layout)
    return body + blake3(body).digest()


def decode_keys(content: bytes) -> NodeKeys:
    """Read a key file.

    Raises:
        BadFormat: it is not a key file, is cut or damaged, or is of a version that we do not know.
    """
    if not content.startswith(MAGIC):
        raise BadFormat(what="this is not a key file of bitdustfs")
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if blake3(body).digest() != digest:
        raise BadFormat(what="the key file is cut or damaged: put a copy of it back")
    try:
        version = msgspec.msgpack.decode(body[len(MAGIC) :], type=_Version).version
        if version != VERSION:
            raise BadFormat(what=f"the key file has version {version}; this bitdustfs reads version {VERSION}")
        layout = msgspec.msgpack.decode(body[len(MAGIC) :], type=_Layout)
    except msgspec.MsgspecError as bad:
        raise BadFormat(what=f"the key file does not hold what it should: {bad}") from bad
    if any(len(key) != SECRET_BYTES for key in (layout.seed, layout.owner_public, layout.volume, layout.record)):
        raise BadFormat(what="the key file holds a key of a wrong length")
    return NodeKeys(
        seed=layout.seed,
        owner_public=layout.owner_public,
        certificate=layout.certificate,
        volume=VolumeKeys(volume=layout.volume, record=layout.record),
    )
