"""Records: small signed notes that anybody may keep and hand on, in the DHT or from friend to friend.

A record lies under the hash of the key that signed it, so whoever keeps or finds one can tell by itself that it
belongs there: nobody can put another one in its place, and of two the one with the higher sequence number counts. A
`Record` exists only if its signature is good: parsing is verifying. Whether it is still valid is for those who know
the time.

    offset  bytes
    0       1     format version, 1
    1       1     kind: 1 addresses of a node, 2 an owner's (core/owner_record)
    2       32    Ed25519 public key of the signer: the node key, or the owner's record signing key
    34      8     sequence number, from 1 on; who signs takes the wall seconds, and always more than the time before
    42      8     expiry, wall seconds
    50      2     length of the content, c: at most 884
    52      c     content
    52+c    64    Ed25519 signature by the signer over the label and bytes 0 … 51 + c

    addresses of a node: at most 8, each
    0       1     4 or 6
    1       4/16  IPv4 or IPv6 address
    …       2     port

Numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bitdustfs.core.address import MAX_ADDRESSES, pack_address, unpack_address
from bitdustfs.core.certificate import SIGNATURE_BYTES, node_id
from bitdustfs.core.keys import public_bytes
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, RecordId

VERSION: Final = 1
MAX_RECORD_BYTES: Final = 1000  # fits a datagram with room for what is around it
RECORD_ID_BYTES: Final = 20
DAY_S: Final = 24 * 3600
CLOCK_SLACK_S: Final = 3600  # clocks of friends differ
_HEADER = struct.Struct(">BB32sQQH")
MAX_CONTENT_BYTES: Final = MAX_RECORD_BYTES - _HEADER.size - SIGNATURE_BYTES
_LATE: Final = 1 << 63
MAX_SEQUENCE: Final = _LATE - 1
_LABEL = b"bitdustfs 1 record\0"
_ID_LABEL = b"bitdustfs 1 record id\0"


class RecordKind(IntEnum):
    NODE = 1  # the addresses of a node, signed by its node key
    OWNER = 2  # who keeps what an owner stored, sealed so that only he can read it


# How far ahead a record may expire. A node that lives signs anew; an owner's record must outlive a burnt machine.
MAX_LIFETIME_S: Final = {RecordKind.NODE: 7 * DAY_S, RecordKind.OWNER: 180 * DAY_S}


@dataclass(frozen=True, slots=True)
class Record:
    """A verified record. Made by `sign` and `parse` only."""

    raw: bytes  # as signed and as it came
    kind: RecordKind
    public: bytes  # of the key that signed
    sequence: int
    expiry_s: int
    content: bytes

    @property
    def signer(self) -> NodeId:
        """The hash of the key that signed: for addresses of a node this is its node id."""
        return node_id(self.public)

    @property
    def id(self) -> RecordId:
        return id_of(self.kind, self.signer)

    def is_valid(self, now_s: int) -> bool:
        """Say whether it is neither over nor made to last longer than its kind may."""
        return now_s < self.expiry_s <= now_s + MAX_LIFETIME_S[self.kind] + CLOCK_SLACK_S


def id_of(kind: RecordKind, signer: NodeId) -> RecordId:
    """Where the record of this kind lies that the key with this hash signs. 20 bytes."""
    return RecordId(sha256(_ID_LABEL + bytes([kind]) + signer).digest()[:RECORD_ID_BYTES])


def signed_s(told: Record) -> int:
    """When a record was signed, by the clock of who signed it, as records are made to last as long as they may."""
    return max(0, told.expiry_s - MAX_LIFETIME_S[told.kind])


def sign(key: Ed25519PrivateKey, kind: RecordKind, *, sequence: int, expiry_s: int, content: bytes) -> Record:
    """Make a record.

    Args:
        sequence: more than that of every record that this key signed before.
        content: at most MAX_CONTENT_BYTES; its shape is that of the kind.
    Raises:
        BadFormat: it makes no sense.
    """
    if not (0 < sequence < _LATE and 0 < expiry_s < _LATE):
        raise BadFormat(what=f"a record cannot have the number {sequence} and end at {expiry_s}")
    if len(content) > MAX_CONTENT_BYTES:
        raise BadFormat(what=f"a record holds at most {MAX_CONTENT_BYTES} bytes, not {len(content)}")
    header = _HEADER.pack(VERSION, kind, public_bytes(key), sequence, expiry_s, len(content))
    return parse(header + content + key.sign(_LABEL + header + content))


def parse(raw: bytes | memoryview) -> Record:
    """Read and verify a record. The content of an owner's record is not looked into.

    Raises:
        BadFormat: an unknown version or kind, a wrong length, a number out of bounds, addresses that are none, or
            not signed by the key that it names.
    """
    if len(raw) and raw[0] != VERSION:
        raise BadFormat(what=f"a record has version {raw[0]}; this bitdustfs reads version {VERSION}")
    if not _HEADER.size + SIGNATURE_BYTES <= len(raw) <= MAX_RECORD_BYTES:
        raise BadFormat(what=f"a record has at most {MAX_RECORD_BYTES} bytes, this has {len(raw)}")
    raw = bytes(raw)
    _version, kind, public, sequence, expiry_s, length = _HEADER.unpack_from(raw)
    if len(raw) != _HEADER.size + length + SIGNATURE_BYTES:
        raise BadFormat(what="a record has another length than it says")
    if kind not in RecordKind.__members__.values():
        raise BadFormat(what=f"a record is of a kind that is not known here: {kind}")
    if not (0 < sequence < _LATE and 0 < expiry_s < _LATE):
        raise BadFormat(what=f"a record cannot have the number {sequence} and end at {expiry_s}")
    signed, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _LABEL + signed)
    except (InvalidSignature, ValueError) as bad:
        raise BadFormat(what="a record is not signed by the key it names") from bad
    record = Record(raw, RecordKind(kind), public, sequence, expiry_s, signed[_HEADER.size :])
    if record.kind is RecordKind.NODE:
        addresses_of(record)
    return record


def newer(one: Record | None, other: Record | None, *, now_s: int) -> Record | None:
    """Of two records with one id, the valid one with the higher sequence number; None if neither is valid.

    Who signed two with one number gets the same of them chosen everywhere: the one that lasts longer, then the one
    with the greater bytes.
    """
    valid = [each for each in (one, other) if each is not None and each.is_valid(now_s)]
    return max(valid, key=lambda each: (each.sequence, each.expiry_s, each.raw), default=None)


def sign_addresses(key: Ed25519PrivateKey, addresses: Iterable[str], *, sequence: int, expiry_s: int) -> Record:
    """Make the record of a node.

    Args:
        key: the node key.
        addresses: ADDR:PORT or [ADDR]:PORT, numbers and not names; at most MAX_ADDRESSES, the best ones first; none:
            this node cannot be dialled.
    Raises:
        BadFormat: one is not such an address, or there are too many.
    """
    content = b"".join(pack_address(each) for each in addresses)
    return sign(key, RecordKind.NODE, sequence=sequence, expiry_s=expiry_s, content=content)


def addresses_of(record: Record) -> tuple[str, ...]:
    """The addresses in the record of a node, as ADDR:PORT or [ADDR]:PORT.

    Raises:
        BadFormat: it is the record of an owner.
    """
    if record.kind is not RecordKind.NODE:
        raise BadFormat(what="only the record of a node has addresses")
    found: list[str] = []
    at = 0
    while at < len(record.content):
        if len(found) == MAX_ADDRESSES:
            raise BadFormat(what=f"the record of a node has at most {MAX_ADDRESSES} addresses")
        address, at = unpack_address(record.content, at)
        found.append(address)
    return tuple(found)
