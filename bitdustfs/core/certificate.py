"""Certificates: an owner says which node acts for him, in which role, in which epoch.

The signed bytes are kept as they came and are never encoded again, so that what was signed is what is shown to
others. A `Certificate` exists only if its signature is good: parsing is verifying. It carries both public keys, so
that everything a node signs can be checked with its certificate alone.

    offset  bytes
    0       1     format version, 1
    1       1     role: 1 writer, 2 reader, 3 supplier
    2       8     epoch, big-endian, 1 … 2^32 − 1; a higher one revokes every lower one
    10      32    owner's Ed25519 public key
    42      32    node's Ed25519 public key
    74      64    Ed25519 signature by the owner over the label and bytes 0 … 73
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bitdustfs.core.keys import owner_id, public_bytes
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, OwnerId, Role, short

VERSION: Final = 1
SIGNATURE_BYTES: Final = 64
CERTIFICATE_BYTES: Final = 138
MAX_EPOCH: Final = (1 << 32) - 1  # one more for each recovery or revocation: nobody gets there, and none is the last
_CONTENT = struct.Struct(">BBQ32s32s")
_OWNER_LABEL = b"bitdustfs 1 owner certificate\0"
_NODE_LABEL = b"bitdustfs 1 node signs "
# SubjectPublicKeyInfo of an Ed25519 key is this prefix and the 32 raw bytes. Source: RFC 8410, section 4.
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A verified certificate. Made by `certify` and `parse` only."""

    raw: bytes  # as signed and as it came
    role: Role
    epoch: int
    owner_public: bytes
    node_public: bytes

    @property
    def owner(self) -> OwnerId:
        return owner_id(self.owner_public)

    @property
    def node(self) -> NodeId:
        return node_id(self.node_public)

    def vouches(self, purpose: str, content: bytes, signature: bytes) -> bool:
        """Say whether the certified node signed `content` for this purpose."""
        try:
            key = Ed25519PublicKey.from_public_bytes(self.node_public)
            key.verify(signature, _node_message(purpose, content))
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Identity:
    """What a running node is: its private key and the certificate of its owner for it."""

    key: Ed25519PrivateKey
    certificate: Certificate

    def __post_init__(self) -> None:
        if public_bytes(self.key) != self.certificate.node_public:
            raise BadFormat(what="the certificate of this node is for another node key")

    def __repr__(self) -> str:
        return f"Identity(node {short(self.node)}, owner {short(self.owner)})"

    @property
    def node(self) -> NodeId:
        return self.certificate.node

    @property
    def owner(self) -> OwnerId:
        return self.certificate.owner

    def sign(self, purpose: str, content: bytes) -> bytes:
        """Sign as this node. `purpose` is constant in the program, one for each kind of object."""
        return self.key.sign(_node_message(purpose, content))


@lru_cache(maxsize=1024)
def node_id(node_public: bytes) -> NodeId:
    """The node's id: SHA-256 of the SubjectPublicKeyInfo of its 32-byte Ed25519 key."""
    return NodeId(hashlib.sha256(_ED25519_SPKI + node_public).digest())


def certify(owner_key: Ed25519PrivateKey, node_public: bytes, role: Role, *, epoch: int) -> Certificate:
    """Sign a certificate for a node, given by its 32-byte public key."""
    content = _CONTENT.pack(VERSION, role, epoch, public_bytes(owner_key), node_public)
    return parse(content + owner_key.sign(_OWNER_LABEL + content))


def parse(raw: bytes) -> Certificate:
    """Read and verify a certificate.

    Raises:
        BadFormat: an unknown version or role, a wrong length, an epoch out of bounds, or not signed by the owner
            it names.

    The same bytes cost 117 us once, and then nothing.
    """
    if raw[:1] and raw[0] != VERSION:
        raise BadFormat(what=f"a certificate has version {raw[0]}; this bitdustfs reads version {VERSION}")
    if len(raw) != CERTIFICATE_BYTES:
        raise BadFormat(what=f"a certificate has {CERTIFICATE_BYTES} bytes, this has {len(raw)}")
    return _verified(bytes(raw))


@lru_cache(maxsize=1024)  # every message of a friend brings the same few; one that is bad is never kept
def _verified(raw: bytes) -> Certificate:
    content, signature = raw[: _CONTENT.size], raw[_CONTENT.size :]
    _version, role, epoch, owner_public, node_public = _CONTENT.unpack(content)
    try:
        Ed25519PublicKey.from_public_bytes(owner_public).verify(signature, _OWNER_LABEL + content)
    except (InvalidSignature, ValueError) as bad:
        raise BadFormat(what="a certificate is not signed by the owner it names") from bad
    if role not in Role.__members__.values():
        raise BadFormat(what=f"a certificate names a role that is not known here: {role}")
    if not 1 <= epoch <= MAX_EPOCH:
        raise BadFormat(what=f"a certificate cannot be of epoch {epoch}")
    return Certificate(raw, Role(role), epoch, owner_public, node_public)


def proves_newer(raw: bytes, than: Certificate) -> Certificate | None:
    """The certificate in `raw`, if it shows that the owner of another one certified in a higher epoch since."""
    try:
        found = parse(raw)
    except BadFormat:
        return None
    return found if found.owner_public == than.owner_public and found.epoch > than.epoch else None


def _node_message(purpose: str, content: bytes) -> bytes:
    return _NODE_LABEL + purpose.encode() + b"\0" + content
