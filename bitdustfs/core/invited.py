"""Kept invitations: what the machine that invites remembers of each, and what the two agree on.

An invitation is open until somebody who has the line joins, it is cancelled, or its time is over by the wall clock.
Who joined is noted before anything is signed: from then on it is good for that node only, so that joining again
finishes what a crash interrupted, and nobody else gets in with the same line.

A kept invitation is one JSON object with these keys: version (1), mark, key (hex), name, offer, need (bytes), made,
expires (wall seconds), cancelled (true or false), guest: null, or node, owner (hex), since (wall seconds), addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bitdustfs.core.invitation import MARK_BYTES, Ticket
from bitdustfs.core.units import format_size
from bitdustfs.errors import BadFormat, BadRequest
from bitdustfs.model import NodeId, OwnerId

VERSION: Final = 1
KEPT_BYTES: Final = 4096  # more than any invitation takes: what is longer is none
MAX_ADDRESSES: Final = 4
ANY: Final = (1 << 63) - 1  # of needs: whatever is offered
MAX_ADDRESS_CHARACTERS: Final = 64
KEY_BYTES: Final = 32
_Amount = Annotated[int, Meta(ge=0, le=ANY)]
_Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class State(Enum):
    """What an invitation is good for."""

    OPEN = "open"
    USED = "used"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Wish:
    """What one side would give at most, and what it would take at most, in bytes."""

    offers: int
    needs: int


@dataclass(frozen=True, slots=True)
class Guest:
    """Who joined."""

    node: NodeId
    owner: OwnerId
    since_s: int  # wall seconds
    addresses: tuple[str, ...] = ()  # ADDR:PORT where it says it can be dialled


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation as it is kept."""

    ticket: Ticket
    name: str  # what the friend is to be called here; "": not chosen yet
    wish: Wish
    made_s: int  # wall seconds, here and below
    expires_s: int
    cancelled: bool = False
    guest: Guest | None = None

    @property
    def short(self) -> str:
        """How a person names it: the first 8 hex digits of its mark."""
        return self.ticket.mark[:4].hex()

    def state(self, now_s: int) -> State:
        """What it is good for now."""
        if self.guest is not None:
            return State.USED
        if self.cancelled:
            return State.CANCELLED
        return State.EXPIRED if now_s >= self.expires_s else State.OPEN

    def refusal(self, node: NodeId, now_s: int) -> str:
        """Why a node that has proven the token may not join; "": it may. Says nothing to anybody else."""
        match self.state(now_s):
            case State.USED if self.guest is not None and self.guest.node != node:
                return "this invitation was used by another machine already, and is good for one only"
            case State.CANCELLED:
                return "this invitation was taken back"
            case State.EXPIRED:
                return "this invitation has expired: ask for another one"
            case _:
                return ""

    def taken(self, guest: Guest) -> Invitation:
        """The same, used by a guest."""
        assert self.guest is None or self.guest.node == guest.node
        since_s = self.guest.since_s if self.guest is not None else guest.since_s
        return replace(self, guest=replace(guest, since_s=since_s))


def fit(host: Wish, guest: Wish) -> tuple[int, int]:
    """What the side that invited and the side that joins give: what each offers, as far as the other needs it.

    Raises:
        BadRequest: one of them needs something and would get nothing; written for the guest.
    """
    host_gives, guest_gives = min(host.offers, guest.needs), min(guest.offers, host.needs)
    if host.needs and not guest_gives:
        raise BadRequest(
            what=f"your friend asks for up to {format_size(host.needs)}, and you offer nothing: give an --offer, or "
            "ask for an invitation that needs nothing"
        )
    if guest.needs not in (0, ANY) and not host_gives:
        raise BadRequest(what="this invitation offers no space: ask for another one, with an --offer")
    if not host_gives and not guest_gives:
        raise BadRequest(what="neither side would give anything to the other: there is nothing to agree on")
    return host_gives, guest_gives


class _Guest(Struct, forbid_unknown_fields=True, frozen=True):
    node: _Hex32
    owner: _Hex32
    since: _Amount
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_ADDRESS_CHARACTERS)], ...], Meta(max_length=MAX_ADDRESSES)
    ]


class _Kept(Struct, forbid_unknown_fields=True, frozen=True):
    version: int
    mark: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    key: _Hex32
    name: Annotated[str, Meta(max_length=64)]
    offer: _Amount
    need: _Amount
    made: _Amount
    expires: _Amount
    cancelled: bool
    guest: _Guest | None


class _Version(Struct, frozen=True):
    version: int


def encode(invitation: Invitation) -> bytes:
    """Write an invitation as it is kept."""
    guest = invitation.guest
    kept = _Kept(
        VERSION,
        invitation.ticket.mark.hex(),
        invitation.ticket.key.hex(),
        invitation.name,
        invitation.wish.offers,
        invitation.wish.needs,
        invitation.made_s,
        invitation.expires_s,
        invitation.cancelled,
        _Guest(guest.node.hex(), guest.owner.hex(), guest.since_s, guest.addresses) if guest is not None else None,
    )
    return msgspec.json.encode(kept)


def parse(raw: bytes) -> Invitation:
    """Read a kept invitation.

    Raises:
        BadFormat: it is none, is cut, or is of an unknown version.
    """
    try:
        version = msgspec.json.decode(raw, type=_Version).version
        if version != VERSION:
            raise BadFormat(what=f"an invitation has version {version}; this bitdustfs reads version {VERSION}")
        kept = msgspec.json.decode(raw, type=_Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadFormat(what=f"a kept invitation cannot be read: {bad}") from bad
    told = kept.guest
    guest = (
        None
        if told is None
        else Guest(NodeId(bytes.fromhex(told.node)), OwnerId(bytes.fromhex(told.owner)), told.since, told.addresses)
    )
    ticket = Ticket(bytes.fromhex(kept.mark), bytes.fromhex(kept.key))
    assert len(ticket.mark) == MARK_BYTES and len(ticket.key) == KEY_BYTES
    wish = Wish(kept.offer, kept.need)
    return Invitation(ticket, kept.name, wish, kept.made, kept.expires, kept.cancelled, guest)
