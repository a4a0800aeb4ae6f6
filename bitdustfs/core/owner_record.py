"""The owner's record: who keeps what an owner stored, found with nothing but the recovery phrase.

It is signed and sealed with keys that come from the owner's record key, which comes from the phrase and stays on the
machine. So who finds one by chance learns neither the owner nor his suppliers, not even how many there are: all have
one length. Who has the words finds it, reads it, and asks those suppliers for the head.

    content of the record:
    0       16    salt: random, new for every record
    16      868   AES-256-GCM under HKDF-Expand(record key, "owner record" ‖ salt), nonce 0, of the plaintext;
                  AAD: the record's version, kind and public key, and its sequence number

    plaintext, 852 bytes:
    0       1     format version, 1
    1       8     version of the newest head when this was written; 0: none yet
    9       1     number of suppliers, s
    10            s times: node id 32, then its address as in the record of a node, or a zero byte: none is known
            …     zeros

Numbers are big-endian. The id of the record is that of the key whose seed is HKDF-Expand(record key,
"owner record signing").
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bitdustfs.core import record as records
from bitdustfs.core.address import pack_address, unpack_address
from bitdustfs.core.certificate import node_id
from bitdustfs.core.keys import derive, public_bytes
from bitdustfs.core.record import MAX_CONTENT_BYTES, Record, RecordKind
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, RecordId

VERSION: Final = 1
SALT_BYTES: Final = 16
_TAG_BYTES = 16
_PLAIN_BYTES = MAX_CONTENT_BYTES - SALT_BYTES - _TAG_BYTES
_HEAD = struct.Struct(">BQB")
_NODE_BYTES = 32
_NO_ADDRESS = b"\0"
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Keeper:
    """A supplier, as the owner's record names it."""

    node: NodeId
    address: str  # ADDR:PORT or [ADDR]:PORT; empty: none is known, its own record may tell


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """What is inside."""

    head_version: int  # of the newest head when this was written; 0: none yet
    keepers: tuple[Keeper, ...]


def signing_key(record_key: bytes) -> Ed25519PrivateKey:
    """The key that signs the owner's record. It signs nothing else."""
    return Ed25519PrivateKey.from_private_bytes(derive(record_key, "owner record signing"))


def id_of(record_key: bytes) -> RecordId:
    """Where the owner's record lies."""
    return records.id_of(RecordKind.OWNER, node_id(public_bytes(signing_key(record_key))))


def seal(record_key: bytes, inside: OwnerRecord, *, salt: bytes, sequence: int, expiry_s: int) -> Record:
    """Make the record of an owner. Its length is the same whatever is inside.

    Args:
        record_key: 32 bytes, from the phrase.
        inside: the most useful suppliers first: those that do not fit are left out (21 do with IPv4 addresses). An
            address that is not numeric is left out too.
        salt: 16 random bytes, new for every record.
        sequence: more than that of every record that this owner made before.
    """
    if len(salt) != SALT_BYTES:
        raise BadFormat(what=f"a record is sealed with {SALT_BYTES} random bytes, not {len(salt)}")
    entries = _fitting(inside.keepers)
    plain = _HEAD.pack(VERSION, inside.head_version, len(entries)) + b"".join(entries)
    key = signing_key(record_key)
    aad = _aad(public_bytes(key), sequence)
    sealed = _cipher(record_key, salt).encrypt(_NONCE, plain.ljust(_PLAIN_BYTES, b"\0"), aad)
    return records.sign(key, RecordKind.OWNER, sequence=sequence, expiry_s=expiry_s, content=salt + sealed)


def unseal(record_key: bytes, record: Record) -> OwnerRecord:
    """Read one's own record.

    Raises:
        BadFormat: it is not this owner's, of an unknown version, or does not hold what it should.
    """
    if record.id != id_of(record_key) or len(record.content) != MAX_CONTENT_BYTES:
        raise BadFormat(what="this is not the record of this owner")
    salt, sealed = record.content[:SALT_BYTES], record.content[SALT_BYTES:]
    try:
        plain = _cipher(record_key, salt).decrypt(_NONCE, sealed, _aad(record.public, record.sequence))
    except InvalidTag as bad:
        raise BadFormat(what="the record of this owner is not sealed with his key") from bad
    version, head_version, count = _HEAD.unpack_from(plain)
    if version != VERSION:
        raise BadFormat(what=f"the inside of a record has version {version}; this bitdustfs reads version {VERSION}")
    keepers: list[Keeper] = []
    at = _HEAD.size
    for _ in range(count):
        node, at = NodeId(plain[at : at + _NODE_BYTES]), at + _NODE_BYTES
        if plain[at : at + 1] == _NO_ADDRESS:
            address, at = "", at + 1
        else:
            address, at = unpack_address(plain, at)
        keepers.append(Keeper(node, address))
    return OwnerRecord(head_version, tuple(keepers))


def _fitting(keepers: Iterable[Keeper]) -> list[bytes]:
    room = _PLAIN_BYTES - _HEAD.size
    packed: list[bytes] = []
    for keeper in keepers:
        entry = keeper.node + _packed_address(keeper.address)
        if len(entry) > room or len(packed) == 255:
            break
        packed.append(entry)
        room -= len(entry)
    return packed


def _packed_address(address: str) -> bytes:
    try:
        return pack_address(address) if address else _NO_ADDRESS
    except BadFormat:
        return _NO_ADDRESS  # a name: whoever reads this asks the DHT for the node's own record


def _cipher(record_key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(derive(record_key, "owner record", salt))


def _aad(public: bytes, sequence: int) -> bytes:
    return bytes([records.VERSION, RecordKind.OWNER]) + public + sequence.to_bytes(8, "big")
