"""Contracts: what two owners agreed to keep for each other.

A contract names two parties. Each party is an owner, the node that signed for him, and what he gives: bytes, a
number of fragments, and the node that keeps the shelf (32 zero bytes if he gives nothing). Rights belong to owners:
any node that an owner certifies may use them, so a contract outlives a burnt machine. Every change is a new contract
with a higher serial and the digest of the one before, so both sides hold one history. Each signature comes with the
signer's certificate, so a contract verifies alone.

    offset  bytes
    0       1     format version, 1
    1       8     serial, from 1 on; one that was proposed and refused is never used again
    9       32    digest of the previous contract, zeros for the first
    41      8     since, wall seconds
    49      8     until, wall seconds; 0: open-ended
    57      112   first party, who proposed: owner id 32, node id 32, gives bytes 8, gives fragments 8, shelf node 32
    169     112   second party, who countersigned: the same
    281     202   first signature: certificate 138, Ed25519 signature 64 over the label and bytes 0 … 280
    483     202   second signature; missing while the contract is only proposed

Numbers are big-endian. The digest of a contract covers bytes 0 … 280: terms, not signatures.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from bitdustfs.core import certificate
from bitdustfs.core.certificate import CERTIFICATE_BYTES, SIGNATURE_BYTES, Certificate, Identity
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, OwnerId, Role

VERSION: Final = 1
NO_CONTRACT: Final = bytes(32)  # the digest that the first contract of two owners names as its previous
NO_NODE: Final = NodeId(bytes(32))
FRAGMENT_SHARE_BYTES: Final = 8 * 1024  # at least this many agreed bytes for each agreed fragment: bounds inodes
MIN_FRAGMENTS: Final = 1024
LAST_S: Final = 253_370_764_800  # the year 9999: what is later has no date that could be shown
_HEAD = struct.Struct(">BQ32sQQ")
_PARTY = struct.Struct(">32s32sQQ32s")
_TERMS_BYTES = _HEAD.size + 2 * _PARTY.size
_SIGNED_BYTES = CERTIFICATE_BYTES + SIGNATURE_BYTES
PROPOSAL_BYTES: Final = _TERMS_BYTES + _SIGNED_BYTES
CONTRACT_BYTES: Final = PROPOSAL_BYTES + _SIGNED_BYTES
_PURPOSE = "contract"
_DIGEST_KEY = blake3(b"bitdustfs 1 contract digest").digest()


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a contract and what it gives."""

    owner: OwnerId
    node: NodeId  # the node that signs for the owner
    gives_bytes: int = 0
    gives_fragments: int = 0
    shelf: NodeId = NO_NODE  # the node that keeps what the other side stores


@dataclass(frozen=True, slots=True)
class Terms:
    """What is agreed. The first party proposes."""

    serial: int
    previous: bytes
    since_s: int
    until_s: int  # 0: open-ended
    first: Party
    second: Party


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one owner may store on one node."""

    bytes: int
    fragments: int
    until_s: int  # 0: open-ended


@dataclass(frozen=True, slots=True)
class Contract:
    """A verified contract or proposal. Made by `propose`, `countersign` and `parse` only."""

    raw: bytes
    terms: Terms
    signers: tuple[Certificate, ...]  # of the first party, and of the second once it signed

    @property
    def digest(self) -> bytes:
        """32 bytes over the terms: what the next contract names as its previous."""
        return _digest(self.raw)

    @property
    def is_signed_by_both(self) -> bool:
        return len(self.signers) == 2

    def gives(self, owner: OwnerId) -> int:
        """The bytes that an owner gives by this contract; 0 if he is no party of it."""
        return sum(party.gives_bytes for party in (self.terms.first, self.terms.second) if party.owner == owner)

    def allowance(self, owner: OwnerId, shelf: NodeId) -> Allowance | None:
        """What `owner` may store on the node `shelf` by this contract; None: nothing was agreed."""
        if not self.is_signed_by_both:
            return None
        for giver, taker in (
            (self.terms.first, self.terms.second),
            (self.terms.second, self.terms.first),
        ):
            if giver.shelf == shelf and taker.owner == owner and giver.gives_bytes > 0:
                return Allowance(giver.gives_bytes, giver.gives_fragments, self.terms.until_s)
        return None


def fragments_for(bytes_agreed: int) -> int:
    """The most fragments that a contract over so many bytes may allow."""
    return max(MIN_FRAGMENTS, bytes_agreed // FRAGMENT_SHARE_BYTES)


def propose(identity: Identity, terms: Terms) -> Contract:
    """Sign terms as their first party.

    Raises:
        BadFormat: the terms make no sense, or `identity` is not their first party.
    """
    head = _HEAD.pack(VERSION, terms.serial, terms.previous, terms.since_s, terms.until_s)
    content = head + _pack_party(terms.first) + _pack_party(terms.second)
    return parse(content + _sign(identity, content))


def countersign(identity: Identity, proposal: Contract) -> Contract:
    """Sign a proposal as its second party.

    Raises:
        BadFormat: it is signed by both already, or `identity` is not its second party.
    """
    return parse(proposal.raw + _sign(identity, proposal.raw[:_TERMS_BYTES]))


def parse(raw: bytes) -> Contract:
    """Read and verify a contract or a proposal.

    Raises:
        BadFormat: an unknown version, a wrong length, terms that make no sense, or a signature that is not
            by a node of its party, certified to act for it.
    """
    if raw[:1] and raw[0] != VERSION:
        raise BadFormat(what=f"a contract has version {raw[0]}; this bitdustfs reads version {VERSION}")
    if len(raw) not in (PROPOSAL_BYTES, CONTRACT_BYTES):
        raise BadFormat(what=f"a contract has {PROPOSAL_BYTES} or {CONTRACT_BYTES} bytes, this has {len(raw)}")
    content = raw[:_TERMS_BYTES]
    terms = _unpack_terms(content)
    parties = (terms.first, terms.second)
    parts = [raw[at : at + _SIGNED_BYTES] for at in range(_TERMS_BYTES, len(raw), _SIGNED_BYTES)]
    signers = tuple(_verify(content, party, part) for party, part in zip(parties, parts, strict=False))
    return Contract(raw, terms, signers)


def _sign(identity: Identity, content: bytes) -> bytes:
    return identity.certificate.raw + identity.sign(_PURPOSE, content)


def _verify(content: bytes, party: Party, signed: bytes) -> Certificate:
    signer = certificate.parse(signed[:CERTIFICATE_BYTES])
    if signer.owner != party.owner or signer.node != party.node:
        raise BadFormat(what="a contract is signed by a node that is not its party")
    if signer.role is Role.READER:
        raise BadFormat(what="a contract is signed by a reader, who may not agree to anything")
    if not signer.vouches(_PURPOSE, content, signed[CERTIFICATE_BYTES:]):
        raise BadFormat(what="a signature under a contract is not genuine")
    return signer


def _unpack_terms(content: bytes) -> Terms:
    _version, serial, previous, since_s, until_s = _HEAD.unpack_from(content)
    first = _unpack_party(content, _HEAD.size)
    second = _unpack_party(content, _HEAD.size + _PARTY.size)
    if serial < 1 or (serial == 1 and previous != NO_CONTRACT):
        raise BadFormat(what="a contract does not say which contract it follows")
    if until_s and until_s <= since_s:
        raise BadFormat(what="a contract ends before it begins")
    if max(since_s, until_s) >= LAST_S:
        raise BadFormat(what="a contract has a date after the year 9998")
    if first.node == second.node:
        raise BadFormat(what="a contract is between a node and itself")
    return Terms(serial, previous, since_s, until_s, first, second)


def _pack_party(party: Party) -> bytes:
    return _PARTY.pack(party.owner, party.node, party.gives_bytes, party.gives_fragments, party.shelf)


def _unpack_party(content: bytes, at: int) -> Party:
    owner, node, gives_bytes, gives_fragments, shelf = _PARTY.unpack_from(content, at)
    gives = (gives_bytes > 0, gives_fragments > 0, shelf != NO_NODE)
    if any(gives) != all(gives):
        raise BadFormat(what="a contract offers space without saying how much of what, or where")
    if gives_bytes >= 1 << 63 or gives_fragments >= 1 << 63:
        raise BadFormat(what="a contract offers more than there is")
    return Party(OwnerId(owner), NodeId(node), gives_bytes, gives_fragments, NodeId(shelf))


def _digest(raw: bytes) -> bytes:
    return blake3(raw[:_TERMS_BYTES], key=_DIGEST_KEY).digest()
