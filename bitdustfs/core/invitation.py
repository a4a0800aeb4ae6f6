"""Invitations: the one line that a person tells a friend, and what proves it.

The line, from its first bit on:

    bits  what
    4     what follows: 1, with an IPv4 address; or 8 bits, 2, with an IPv6 address; others are of a later version
    128   the front of the node id of the machine that invites
    80    the token, drawn at random for this invitation
    32    IPv4 address; or 128, IPv6 address
    16    port

written in checked base32 (core/base32): 56 characters with IPv4, and 76 with IPv6, for nothing in it can be spared.

The token never leaves the two machines. From it come the invitation's *mark*, by which it is asked for, and its
*key*, with which both sides show that they have the line: each by a MAC over both node ids, both nonces and who
speaks, inside a TLS session in which both node ids are proven. The machine that invites keeps mark and key, and not
the token.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from bitdustfs.core import base32
from bitdustfs.errors import BadRequest
from bitdustfs.model import NodeId

FRONT_BYTES: Final = 16  # of the node id: nobody finds another key with the same 128 bits
TOKEN_BYTES: Final = 10
MARK_BYTES: Final = 16
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
_IPV4, _IPV6 = 1, 2
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}
_PORT_BYTES = 2
_KIND_BITS = 4
_MARK_LABEL = "bitdustfs 1 invitation mark"
_KEY_LABEL = "bitdustfs 1 invitation key"
_HOST, _GUEST = b"bitdustfs 1 host\0", b"bitdustfs 1 guest\0"  # one length: what is behind it cannot slide


@dataclass(frozen=True, slots=True, repr=False)
class Ticket:
    """What an invitation's token is good for, without the token."""

    mark: bytes  # MARK_BYTES; names the invitation to those who have the line
    key: bytes  # 32 bytes; proves that one has it

    def __repr__(self) -> str:
        return "Ticket(…)"


@dataclass(frozen=True, slots=True, repr=False)
class Line:
    """What an invitation says."""

    front: bytes  # FRONT_BYTES of the node id of the machine that invites
    token: bytes  # TOKEN_BYTES
    host: str  # an IPv4 or IPv6 address
    port: int

    def __repr__(self) -> str:
        return "Line(…)"

    @property
    def address(self) -> str:
        """ADDR:PORT, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ticket(self) -> Ticket:
        return ticket_of(self.token)


def ticket_of(token: bytes) -> Ticket:
    """What both sides make of the token."""
    assert len(token) == TOKEN_BYTES
    mark = blake3(token, derive_key_context=_MARK_LABEL).digest(MARK_BYTES)
    return Ticket(mark, blake3(token, derive_key_context=_KEY_LABEL).digest())


def write_line(line: Line) -> str:
    """Write an invitation as the person reads it out: groups of four characters with hyphens between.

    Raises:
        BadRequest: the address is no IP address, or the port none.
    """
    try:
        address = ipaddress.ip_address(line.host)
    except ValueError as bad:
        raise BadRequest(what=f"an invitation has an IP address in it, and {line.host!r} is none") from bad
    if not 0 < line.port < 1 << 16:
        raise BadRequest(what=f"an invitation cannot be to port {line.port}")
    kind = _IPV4 if address.version == 4 else _IPV6
    content = line.front + line.token + address.packed + line.port.to_bytes(_PORT_BYTES, "big")
    return base32.encode(kind << (8 * len(content)) | int.from_bytes(content, "big"), _characters(kind))


def read_line(text: str) -> Line:
    """Read an invitation, however it was typed.

    Raises:
        BadRequest: says what is wrong with it, and where if that can be told. Says nothing that is in it but a group.
    """
    try:
        number, count = base32.decode(text, [_characters(kind) for kind in _ADDRESS_BYTES])
    except BadRequest as bad:
        raise BadRequest(what=f"this is not an invitation as it was given: {bad}") from bad
    kind = next(kind for kind in _ADDRESS_BYTES if _characters(kind) == count)
    length = _content_bytes(kind)
    if number >> 8 * length != kind:
        raise BadRequest(what="this invitation is of another version of bitdustfs: both sides need the same")
    content = (number & (1 << 8 * length) - 1).to_bytes(length, "big")
    token_at, address_at = FRONT_BYTES, FRONT_BYTES + TOKEN_BYTES
    port = int.from_bytes(content[-_PORT_BYTES:], "big")
    if not port:
        raise BadRequest(what="this invitation has no port in it: ask for another one")
    return Line(
        front=content[:FRONT_BYTES],
        token=content[token_at:address_at],
        host=str(ipaddress.ip_address(content[address_at:-_PORT_BYTES])),
        port=port,
    )


def host_proof(ticket: Ticket, host: NodeId, guest: NodeId, *, host_nonce: bytes, guest_nonce: bytes) -> bytes:
    """What the machine that invites shows to the one that joins."""
    return _proof(_HOST, ticket, host, guest, host_nonce, guest_nonce)


def guest_proof(ticket: Ticket, host: NodeId, guest: NodeId, *, host_nonce: bytes, guest_nonce: bytes) -> bytes:
    """What the machine that joins shows to the one that invites."""
    return _proof(_GUEST, ticket, host, guest, host_nonce, guest_nonce)


def proves(shown: bytes, wanted: bytes) -> bool:
    """Compare two proofs without telling by the time where they differ."""
    return hmac.compare_digest(shown, wanted)


def _proof(who: bytes, ticket: Ticket, host: NodeId, guest: NodeId, host_nonce: bytes, guest_nonce: bytes) -> bytes:
    assert len(host) == len(guest) == len(host_nonce) == len(guest_nonce) == NONCE_BYTES
    return blake3(who + host + guest + host_nonce + guest_nonce, key=ticket.key).digest()


def _content_bytes(kind: int) -> int:
    return FRONT_BYTES + TOKEN_BYTES + _ADDRESS_BYTES[kind] + _PORT_BYTES


def _characters(kind: int) -> int:
    """Without the check group: whole groups, with room for the content and at least 4 bits before it."""
    return -(-(_KIND_BITS + 8 * _content_bytes(kind)) // 20) * 4
