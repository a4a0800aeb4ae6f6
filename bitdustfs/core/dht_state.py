"""What a node of the table remembers when it is not running: its key, whom it knew, and what it kept.

Bytes: the magic `bddht\\n\\x00\\x00`, version 1, the seed of the node's key in the table, the number of contacts 2,
each an id of 20 bytes and an address as in a record, the number of records 2, each a length 2 and a record, then
BLAKE3 of everything before it. Records are verified when they are read; contacts are only hints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from bitdustfs.core.address import pack_address, unpack_address
from bitdustfs.core.datagram import DHT_ID_BYTES, Contact
from bitdustfs.core.record import MAX_RECORD_BYTES, Record, parse
from bitdustfs.errors import BadFormat

VERSION: Final = 1
MAX_KNOWN: Final = 200  # contacts
MAX_REMEMBERED: Final = 512  # records
MAX_STATE_BYTES: Final = 64 * 1024 + MAX_REMEMBERED * (2 + MAX_RECORD_BYTES)
_MAGIC = b"bddht\n\0\0"
_SEED_BYTES = 32
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class DhtState:
    seed: bytes  # 32 bytes, private: of the Ed25519 key that answers are signed with
    contacts: tuple[Contact, ...] = ()
    records: tuple[Record, ...] = ()

    def __repr__(self) -> str:
        return f"DhtState({len(self.contacts)} contacts, {len(self.records)} records)"


def encode_state(state: DhtState) -> bytes:
    """Write it. What is too much is left out."""
    contacts, records = state.contacts[:MAX_KNOWN], state.records[:MAX_REMEMBERED]
    body = b"".join(
        [
            _MAGIC + bytes([VERSION]) + state.seed,
            _packed_number(contacts),
            *(each.id + pack_address(each.address) for each in contacts),
            _packed_number(records),
            *(len(each.raw).to_bytes(2, "big") + each.raw for each in records),
        ]
    )
    return body + blake3(body).digest()


def decode_state(content: bytes) -> DhtState:
    """Read it. Records that are none any more are left out.

    Raises:
        BadFormat: it is none, is cut or damaged, or is of a version that we do not know.
    """
    if not content.startswith(_MAGIC) or len(content) > MAX_STATE_BYTES:
        raise BadFormat(what="this is not what a node of the hash table remembers")
    if content[len(_MAGIC) : len(_MAGIC) + 1] != bytes([VERSION]):
        raise BadFormat(what=f"it has another version than {VERSION}")
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if blake3(body).digest() != digest:
        raise BadFormat(what="it is cut or damaged")
    at = len(_MAGIC) + 1
    seed, at = body[at : at + _SEED_BYTES], at + _SEED_BYTES
    count, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    contacts: list[Contact] = []
    for _ in range(min(count, MAX_KNOWN)):
        node, at = body[at : at + DHT_ID_BYTES], at + DHT_ID_BYTES
        address, at = unpack_address(body, at)
        contacts.append(Contact(node, address))
    count, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    records: list[Record] = []
    for _ in range(min(count, MAX_REMEMBERED)):
        length, at = int.from_bytes(body[at : at + 2], "big"), at + 2
        raw, at = body[at : at + length], at + length
        records += _read(raw)
    if len(seed) != _SEED_BYTES or at != len(body):
        raise BadFormat(what="it does not hold what it says")
    return DhtState(seed, tuple(contacts), tuple(records))


def _packed_number(things: Sequence[object]) -> bytes:
    return len(things).to_bytes(2, "big")


def _read(raw: bytes) -> list[Record]:
    try:
        return [parse(raw)]
    except BadFormat:
        return []
