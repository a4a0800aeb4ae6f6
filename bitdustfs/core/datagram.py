"""Datagrams of the distributed hash table: bytes in, message out, or a refusal. Nothing nests and nothing is guessed.

Each asks or answers one thing. Who asks proves nothing; who answers signs the answer together with the number that
the asker drew, so an answer proves both the id of a node and that it gets what is sent to its address. Only such
nodes are remembered. A node's id is a hash of its key: nobody can take another one's.

An answer is at most three times as long as what asked for it, so that nobody gains much by asking in somebody else's
name. STORE needs the token of an earlier answer: it is good only for the address that the answer went to.

    offset  bytes
    0       3     "bdh"
    3       1     version, 1
    4       1     type
    5       16    number: random in a question, the same in its answer
    21            question: what it asks
                  answer: token 8, public key 32, signature 64 over the label, bytes 0 … 60, and the rest; the rest

    type  question  what it asks
    1     PING      27 zeros
    2     FIND      target 20, 1 for a record or 0 for nodes near it, 358 zeros
    3     STORE     token 8, record

    type  answer    the rest
    129   PONG      nothing
    130   FOUND     length of the record 2 (0: none), record, number of contacts 1, contacts: id 20 and address
    131   STORED    1 if the record, or a newer one, is kept; 0 if it is refused

Numbers are big-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bitdustfs.core.address import pack_address, unpack_address
from bitdustfs.core.certificate import SIGNATURE_BYTES
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.record import MAX_RECORD_BYTES, RECORD_ID_BYTES
from bitdustfs.errors import BadFormat

VERSION: Final = 1
MAX_DATAGRAM_BYTES: Final = 1200  # is not cut into pieces on any way that IPv6 may take (1280 with its headers)
GAIN: Final = 3  # bytes of an answer for each byte of its question, at most
NUMBER_BYTES: Final = 16
TOKEN_BYTES: Final = 8
DHT_ID_BYTES: Final = 20
MAX_CONTACTS: Final = 20
_MAGIC = b"bdh" + bytes([VERSION])
_HEADER_BYTES = len(_MAGIC) + 1 + NUMBER_BYTES
_PUBLIC_BYTES = 32
_SIGNED_AT = _HEADER_BYTES + TOKEN_BYTES + _PUBLIC_BYTES
_REST_AT = _SIGNED_AT + SIGNATURE_BYTES
_PING_BYTES = 48
_FIND_BYTES = 400
_LABEL = b"bitdustfs 1 dht answer\0"
_ID_LABEL = b"bitdustfs 1 dht id\0"


class Type(IntEnum):
    PING = 1
    FIND = 2
    STORE = 3
    PONG = 129
    FOUND = 130
    STORED = 131


_ANSWERS = frozenset((Type.PONG, Type.FOUND, Type.STORED))
_TYPES = frozenset(Type)


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there, and who are you?"""


@dataclass(frozen=True, slots=True)
class Find:
    """Which nodes are near this id; or which record lies there."""

    target: bytes  # 20 bytes
    wants_record: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Keep this record."""

    token: bytes
    record: bytes  # not verified yet


Question = Ping | Find | Store


@dataclass(frozen=True, slots=True)
class Contact:
    """Where somebody says that a node is."""

    id: bytes  # 20 bytes
    address: str  # ADDR:PORT or [ADDR]:PORT


@dataclass(frozen=True, slots=True)
class Pong:
    """I am."""


@dataclass(frozen=True, slots=True)
class Found:
    record: bytes = b""  # not verified yet
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    is_kept: bool


Said = Pong | Found | Stored


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified answer: the node with this id gave it to the question with this number."""

    id: bytes  # 20 bytes: hash of the key that signed
    token: bytes  # for a STORE from the address that this came to
    said: Said


def dht_id(public: bytes) -> bytes:
    """The id of a node of the table: a hash of its 32-byte Ed25519 key. 20 bytes."""
    return sha256(_ID_LABEL + public).digest()[:DHT_ID_BYTES]


def token(secret: bytes, address: str) -> bytes:
    """What proves that its bearer gets what is sent to this address. `secret` has 32 bytes and changes often."""
    return blake3(address.encode(), key=secret).digest()[:TOKEN_BYTES]


def look(datagram: bytes) -> tuple[Type, bytes]:
    """The type and the number of a datagram, before it is looked into.

    Raises:
        BadFormat: too long, too short, not of ours, or of another version.
    """
    if not _HEADER_BYTES < len(datagram) <= MAX_DATAGRAM_BYTES or datagram[: len(_MAGIC)] != _MAGIC:
        raise BadFormat(what="a datagram is not one of ours")
    kind = datagram[len(_MAGIC)]
    if kind not in _TYPES:
        raise BadFormat(what=f"a datagram has the type {kind}, which is not known here")
    return Type(kind), datagram[len(_MAGIC) + 1 : _HEADER_BYTES]


def is_answer(kind: Type) -> bool:
    return kind in _ANSWERS


def ask(number: bytes, question: Question) -> bytes:
    """Write a question. `number` is 16 random bytes."""
    match question:
        case Ping():
            return (_header(Type.PING, number)).ljust(_PING_BYTES, b"\0")
        case Find(target, wants_record):
            return (_header(Type.FIND, number) + target + bytes([wants_record])).ljust(_FIND_BYTES, b"\0")
        case Store(given, record):
            return _header(Type.STORE, number) + given + record


def parse_question(datagram: bytes) -> Question:
    """Read a question.

    Raises:
        BadFormat: it is none.
    """
    kind, _number = look(datagram)
    body = datagram[_HEADER_BYTES:]
    if kind is Type.PING and datagram[_HEADER_BYTES:] == bytes(_PING_BYTES - _HEADER_BYTES):
        return Ping()
    if kind is Type.FIND and len(datagram) == _FIND_BYTES and not any(body[RECORD_ID_BYTES + 1 :]):
        if body[RECORD_ID_BYTES] > 1:
            raise BadFormat(what="a datagram asks for neither nodes nor a record")
        return Find(body[:RECORD_ID_BYTES], bool(body[RECORD_ID_BYTES]))
    if kind is Type.STORE and TOKEN_BYTES < len(body) <= TOKEN_BYTES + MAX_RECORD_BYTES:
        return Store(body[:TOKEN_BYTES], body[TOKEN_BYTES:])
    raise BadFormat(what="a datagram has another shape than its type")


def answer(key: Ed25519PrivateKey, number: bytes, given: bytes, said: Said, *, room: int) -> bytes:
    """Write an answer.

    Args:
        key: of the node that answers.
        number: of the question.
        given: the token for who asked.
        room: bytes that it may have, at most; contacts that do not fit are left out, and a record if it does not.
    """
    match said:
        case Pong():
            kind, rest = Type.PONG, b""
        case Found(record, contacts):
            kind, rest = Type.FOUND, _found(record, contacts, min(room, MAX_DATAGRAM_BYTES) - _REST_AT)
        case Stored(is_kept):
            kind, rest = Type.STORED, bytes([is_kept])
    signed = _header(kind, number) + given + public_bytes(key)
    return signed + key.sign(_LABEL + signed + rest) + rest


def parse_answer(datagram: bytes) -> Answer:
    """Read and verify an answer.

    Raises:
        BadFormat: it is none, or not signed by the key in it.
    """
    kind, _number = look(datagram)
    if kind not in _ANSWERS or len(datagram) < _REST_AT:
        raise BadFormat(what="a datagram is no answer")
    signed, signature, rest = datagram[:_SIGNED_AT], datagram[_SIGNED_AT:_REST_AT], datagram[_REST_AT:]
    public = signed[-_PUBLIC_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _LABEL + signed + rest)
    except (InvalidSignature, ValueError) as bad:
        raise BadFormat(what="an answer is not signed by the key in it") from bad
    return Answer(dht_id(public), signed[_HEADER_BYTES : _HEADER_BYTES + TOKEN_BYTES], _said(kind, rest))


def _header(kind: Type, number: bytes) -> bytes:
    return _MAGIC + bytes([kind]) + number


def _found(record: bytes, contacts: Sequence[Contact], room: int) -> bytes:
    room -= 2 + 1
    if len(record) > room:
        record = b""
    room -= len(record)
    packed: list[bytes] = []
    for contact in contacts[:MAX_CONTACTS]:
        entry = contact.id + pack_address(contact.address)
        if len(entry) > room:
            break
        packed.append(entry)
        room -= len(entry)
    return len(record).to_bytes(2, "big") + record + bytes([len(packed)]) + b"".join(packed)


def _said(kind: Type, rest: bytes) -> Said:
    if kind is Type.STORED:
        if rest not in (b"\0", b"\1"):
            raise BadFormat(what="an answer says neither that a record is kept nor that it is refused")
        return Stored(rest == b"\1")
    if kind is Type.PONG:
        if rest:
            raise BadFormat(what="an answer says more than that somebody is there")
        return Pong()
    length = int.from_bytes(rest[:2], "big")
    record, at = rest[2 : 2 + length], 2 + length
    if length > MAX_RECORD_BYTES or at >= len(rest) or rest[at] > MAX_CONTACTS:
        raise BadFormat(what="an answer says that it holds more than it does")
    count, at = rest[at], at + 1
    contacts: list[Contact] = []
    for _ in range(count):
        node, at = rest[at : at + DHT_ID_BYTES], at + DHT_ID_BYTES
        address, at = unpack_address(rest, at)
        contacts.append(Contact(node, address))
    if at != len(rest):
        raise BadFormat(what="an answer has bytes behind its contacts")
    return Found(record, tuple(contacts))


assert RECORD_ID_BYTES == DHT_ID_BYTES  # records and nodes lie in one space
