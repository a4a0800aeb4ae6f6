"""Wire: the messages between two nodes, as pure values.

    frame = header length (u32) ‖ body length (u32) ‖ header ‖ body

Numbers are big-endian. The header is a msgpack array [id, message], the message again an array whose first element
is its tag; the body is raw bytes. Every type has limits on every field, and unknown fields are an error: a bomb of
nested arrays ends at the first level. `core.framing` cuts a stream into frames.

Both sides ask and answer on one connection, whoever dialled. An id is chosen by the side that asks; an answer has
the id of its request, and may come in any order. HELLO is the first frame of each side and has id 0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from bitdustfs.core.agreement import MAX_HELD
from bitdustfs.core.certificate import CERTIFICATE_BYTES
from bitdustfs.core.contract import CONTRACT_BYTES
from bitdustfs.core.fragment import HASH_BYTES, MAX_FRAGMENT_BYTES, leaf_count
from bitdustfs.core.head import LINK_BYTES, MAX_HEAD_BYTES, MAX_KEPT_BYTES, MAX_LEASE_S
from bitdustfs.core.invited import MAX_ADDRESSES
from bitdustfs.core.receipt import RECEIPT_BYTES, VIEW_BYTES
from bitdustfs.core.record import MAX_RECORD_BYTES
from bitdustfs.model import LEAF_BYTES

PROTOCOL_VERSION: Final = 7
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = MAX_FRAGMENT_BYTES + HASH_BYTES * leaf_count(MAX_FRAGMENT_BYTES)
STRANGER_HEADER_BYTES: Final = 16 * 1024  # what may be asked of who knows nobody needs a sixth of it
HELLO_HEADER_BYTES: Final = 4 * 1024  # before HELLO nobody is anybody: the smallest budget that holds one
FEATURE_BULK: Final = "bulk"  # in HELLO: this side answers BULK
MAX_NUMBER: Final = (1 << 63) - 1  # of anything; SQLite's integers end there too
MAX_NAMES: Final = 1024  # in one DELETE or LIST: 46 KiB of header
PREFIX: Final = struct.Struct(">II")  # lengths of header and body

U32: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
U63: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Bytes16: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Length: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_FRAGMENT_BYTES)]
HeadLength: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_HEAD_BYTES)]
Contracts: TypeAlias = Annotated[
    tuple[Annotated[bytes, Meta(min_length=CONTRACT_BYTES, max_length=CONTRACT_BYTES)], ...],
    Meta(max_length=MAX_HELD),
]
Word: TypeAlias = Annotated[str, Meta(max_length=64)]


class Refused(IntEnum):
    """Why a request was refused. The list is closed; the text beside it is for people only."""

    NO_CONTRACT = 1  # nothing was agreed with this owner
    NOT_ALLOWED = 2  # the node's role, or our list of owners, does not allow it
    QUOTA = 3  # what was agreed is used up
    DISK_FULL = 4  # the supplier's disk is
    NOT_FOUND = 5  # no such fragment
    TAKEN = 6  # the name holds another fragment
    BAD_ROOT = 7  # the bytes that arrived do not have the root that was said
    STALE = 8  # a newer epoch of this owner is known, and `proof` shows it
    UNAVAILABLE = 9  # not now: the shelf's disk is not there, or too much is going on
    BAD_REQUEST = 10  # makes no sense: a contract that does not chain, a length that does not fit
    FAULT = 11  # the supplier's own fault
    BEHIND = 12  # a head as new or newer is held
    FORKED = 13  # the head does not come from the one that is held
    CROSSED = 14  # a contract that we have proposed ourselves goes first
    LEASED = 15  # another node, or the same in another seat, holds the volume


class _Message(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    pass


class Hello(_Message, frozen=True, tag=0):
    """The first message of each side: who speaks, certified by the owner."""

    version: U32
    certificate: Annotated[bytes, Meta(max_length=1024)]
    features: Annotated[tuple[Word, ...], Meta(max_length=16)]
    software: Word


class Ping(_Message, frozen=True, tag=1):
    pass


class Put(_Message, frozen=True, tag=2):
    """Store the body as a fragment."""

    name: Bytes32
    root: Bytes32
    length: Length  # of the body
    epoch: U63  # of the writer's certificate
    head_version: U63  # the newest head that the writer knows


class Get(_Message, frozen=True, tag=3):
    """Read `count` leaves from leaf `first` on, with or without the fragment's hash list."""

    name: Bytes32
    first: U32
    count: U32
    hashes: bool


class Delete(_Message, frozen=True, tag=4):
    names: Annotated[tuple[Bytes32, ...], Meta(min_length=1, max_length=MAX_NAMES)]
    epoch: U63
    head_version: U63


class List(_Message, frozen=True, tag=5):
    """Name the caller's fragments above `after`, in order of name."""

    after: Annotated[bytes, Meta(max_length=32)]
    limit: Annotated[int, Meta(ge=1, le=MAX_NAMES)]


class Stat(_Message, frozen=True, tag=6):
    """Ask for quota, use and contract of the caller."""


class Propose(_Message, frozen=True, tag=7):
    """Ask the peer to countersign a contract."""

    contract: Annotated[bytes, Meta(max_length=CONTRACT_BYTES)]


class Bulk(_Message, frozen=True, tag=8):
    """Ask for a bulk connection, which the asker will open (core/bulk)."""

    key: Bytes32  # seals what the asker sends there

    def __repr__(self) -> str:
        return "Bulk(…)"


class PutHead(_Message, frozen=True, tag=9):
    """Keep the head that the body begins with; then come the links from the one that is held to it (core/head)."""

    head_bytes: HeadLength
    epoch: U63  # of the caller's certificate


class GetHead(_Message, frozen=True, tag=10):
    """Ask for the caller's head."""


class Watch(_Message, frozen=True, tag=19):
    """Ask to be told when another head of the caller's than this one is held, or after a while that none is."""

    epoch: U63  # of the head that is known
    version: U63


class Knock(_Message, frozen=True, tag=11):
    """Somebody has an invitation of ours (core/invitation) and wants to show it."""

    mark: Bytes16
    nonce: Bytes32


class Join(_Message, frozen=True, tag=12):
    """Show that one has the invitation knocked with; and agree, if there is a contract, else ask for the terms."""

    mark: Bytes16
    proof: Bytes32
    addresses: Annotated[tuple[Word, ...], Meta(max_length=MAX_ADDRESSES)]  # ADDR:PORT where it can be dialled
    contract: Annotated[bytes, Meta(max_length=CONTRACT_BYTES)]  # signed by the first party, or empty

    def __repr__(self) -> str:
        return "Join(…)"


class Compare(_Message, frozen=True, tag=16):
    """Show the contracts with the peer's owner that are held here, oldest first, and ask for his."""

    contracts: Contracts


class Here(_Message, frozen=True, tag=13):
    """Tell where the asker can be dialled, and where it sees the one who is asked."""

    record: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]  # of the asker (core/record)
    seen: Word  # where the asker dialled the peer; or ADDR:0, where the peer's connection came from


class Where(_Message, frozen=True, tag=14):
    """Ask where another node can be dialled."""

    node: Bytes32


class Reach(_Message, frozen=True, tag=18):
    """Ask to be dialled where the asker's connection comes from, at the port that it announces."""


class Receipt(_Message, frozen=True, tag=15):
    """Keep what the caller signed for what is kept for him here (core/receipt), and show what is kept of that."""

    receipt: Annotated[bytes, Meta(max_length=RECEIPT_BYTES)]  # empty: only show


class Hold(_Message, frozen=True, tag=17):
    """Hold the caller's volume for a time, so that nobody else writes it (core/lease); or let it go."""

    seat: Bytes16
    lease_s: Annotated[int, Meta(ge=0, le=MAX_LEASE_S)]  # 0: let it go
    takes_over: bool  # whoever holds it
    wishes: bool  # that who holds it lets it go
    waits: bool  # to be answered when somebody wishes that, or after a while that nobody does


class Done(_Message, frozen=True, tag=128):
    """PING, PUT, PUT_HEAD, HERE: done. What was to be kept is durable."""


class Found(_Message, frozen=True, tag=129):
    """GET: the body is the hash list (`hash_bytes`, 0 if not asked for) and then the leaves."""

    length: Length  # of the whole fragment
    hash_bytes: U32


class Deleted(_Message, frozen=True, tag=130):
    count: U32  # how many of the names were there


class Listed(_Message, frozen=True, tag=131):
    entries: Annotated[tuple[tuple[Bytes32, Length], ...], Meta(max_length=MAX_NAMES)]


class Status(_Message, frozen=True, tag=132):
    """STAT: what the caller has by contract, uses, and could still store now."""

    quota_bytes: U63
    quota_fragments: U63
    used_bytes: U63
    used_fragments: U63
    free_bytes: U63  # of the disk that the supplier gives
    lost: U63  # of the caller's fragments, that the supplier found damaged on its shelf since it was started
    contract: Annotated[bytes, Meta(max_length=CONTRACT_BYTES)]


class Agreed(_Message, frozen=True, tag=133):
    contract: Annotated[bytes, Meta(max_length=CONTRACT_BYTES)]


class Ticket(_Message, frozen=True, tag=135):
    """BULK: what to open the connection with, once, and soon."""

    ticket: Bytes16
    key: Bytes32  # seals what the side that answers sends there

    def __repr__(self) -> str:
        return "Ticket(…)"


class Compared(_Message, frozen=True, tag=142):
    """COMPARE: the contracts with the caller's owner that are held now, when his were looked at."""

    contracts: Contracts


class Receipted(_Message, frozen=True, tag=141):
    """RECEIPT: the newest that is kept of the caller's owner, and what was counted here, signed; empty: none."""

    receipt: Annotated[bytes, Meta(max_length=RECEIPT_BYTES)]
    view: Annotated[bytes, Meta(max_length=VIEW_BYTES)]


class HeadIs(_Message, frozen=True, tag=136):
    """GET_HEAD: the body is the head that is held, and then links of heads before it; empty: there is none."""

    head_bytes: Annotated[int, Meta(ge=0, le=MAX_HEAD_BYTES)]


class Newest(_Message, frozen=True, tag=147):
    """WATCH: which head is held; version 0: none, or nobody can tell."""

    epoch: U63
    version: U63


class Challenge(_Message, frozen=True, tag=137):
    """KNOCK: the answer's nonce, whether there is such an invitation or not."""

    nonce: Bytes32


class Joined(_Message, frozen=True, tag=138):
    """JOIN: what the side that invites shows, offers and needs; and the contract that there is, signed by both."""

    proof: Bytes32
    offers: U63  # bytes, at most
    needs: U63  # bytes, at most
    contract: Annotated[bytes, Meta(max_length=CONTRACT_BYTES)]  # empty: none yet
    is_done: bool  # this contract came of this invitation: nothing is left to agree on
    seen: Word  # ADDR:PORT from which the side that joins came
    reached: Word  # ADDR:PORT at which it could be dialled; empty: at none, or it was not tried

    def __repr__(self) -> str:
        return "Joined(…)"


class There(_Message, frozen=True, tag=140):
    """WHERE: what the node itself signed; empty: it is not known here."""

    record: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]


class Reached(_Message, frozen=True, tag=146):
    """REACH: where it was dialled, and whether it was there."""

    address: Word  # ADDR:PORT; empty: there was nothing to try
    is_there: bool


class Holds(_Message, frozen=True, tag=145):
    """HOLD: whether the caller holds it now, or who else, and who wishes that he lets it go."""

    is_yours: bool
    node: Annotated[bytes, Meta(max_length=32)]  # that holds it; empty: nobody
    left_s: U32  # of his lease
    wished_by: Annotated[bytes, Meta(max_length=32)]  # a node; empty: nobody wishes it


class Refusal(_Message, frozen=True, tag=134):
    code: Refused
    text: Annotated[str, Meta(max_length=200)]
    detail: U63 = (
        0  # STALE: the newest epoch known; BEHIND, FORKED: the version of the head that is held; LEASED: seconds
    )
    proof: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES)] = b""  # STALE: a certificate of that epoch


Request: TypeAlias = (
    Ping
    | Put
    | Get
    | Delete
    | List
    | Stat
    | Propose
    | Bulk
    | PutHead
    | GetHead
    | Watch
    | Knock
    | Join
    | Compare
    | Here
    | Where
    | Reach
    | Receipt
    | Hold
)
Answer: TypeAlias = (
    Done
    | Found
    | Deleted
    | Listed
    | Status
    | Agreed
    | Refusal
    | Ticket
    | HeadIs
    | Newest
    | Challenge
    | Joined
    | Compared
    | There
    | Reached
    | Receipted
    | Holds
)
Message: TypeAlias = Hello | Request | Answer

ANSWERS: Mapping[type[Request], type[Answer]] = MappingProxyType(
    {
        Ping: Done,
        Put: Done,
        Get: Found,
        Delete: Deleted,
        List: Listed,
        Stat: Status,
        Propose: Agreed,
        Bulk: Ticket,
        PutHead: Done,
        GetHead: HeadIs,
        Watch: Newest,
        Knock: Challenge,
        Join: Joined,
        Compare: Compared,
        Here: Done,
        Where: There,
        Reach: Reached,
        Receipt: Receipted,
        Hold: Holds,
    }
)


class _Header(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    id: U32
    message: Message


_decoder = msgspec.msgpack.Decoder(_Header)
_encoder = msgspec.msgpack.Encoder()


def encode(id: int, message: Message, body_bytes: int = 0) -> bytes:
    """Write prefix and header of a frame; the body follows as it is."""
    header = _encoder.encode(_Header(id, message))
    return PREFIX.pack(len(header), body_bytes) + header


def decode(header: bytes) -> tuple[int, Message]:
    """Read id and message of a header. Raises ValueError: it is none, or a field is out of its limits."""
    try:
        head = _decoder.decode(header)
    except (msgspec.MsgspecError, RecursionError) as bad:
        raise ValueError(str(bad)) from bad
    return head.id, head.message


def body_fits(message: Message, body_bytes: int) -> bool:
    """Say whether a body of that length belongs to a message."""
    match message:
        case Put(length=length):
            return body_bytes == length
        case Found(hash_bytes=hash_bytes):
            return hash_bytes <= body_bytes
        case PutHead(head_bytes=head_bytes):
            return head_bytes <= body_bytes and (body_bytes - head_bytes) % LINK_BYTES == 0
        case HeadIs(head_bytes=head_bytes):
            return head_bytes <= body_bytes <= MAX_KEPT_BYTES and (body_bytes - head_bytes) % LINK_BYTES == 0
        case _:
            return body_bytes == 0


def most_body(request: Request) -> int:
    """The longest body that an honest answer to this request has."""
    match request:
        case Get(count=count, hashes=hashes):
            list_bytes = HASH_BYTES * leaf_count(MAX_FRAGMENT_BYTES) if hashes else 0
            return list_bytes + min(count * LEAF_BYTES, MAX_FRAGMENT_BYTES)
        case GetHead():
            return MAX_KEPT_BYTES
        case _:
            return 0


def printable(text: str) -> str:
    """Escape what a terminal or a log would obey, in text that came from a peer."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
