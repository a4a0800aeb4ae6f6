"""Hiring: agree with one node on a contract, over a connection that is there or one made for that."""

from __future__ import annotations

import trio

from bitdustfs.core import contract, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Allowance, Contract, Party, Terms
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BadFormat, PeerError, PeerRefused, ProtocolViolation


async def hire(peer: Peer, identity: Identity, wanted: Allowance, *, since_s: int) -> Contract:
    """Agree that a greeted peer keeps so much for us; then end the connection. The caller sets the deadline.

    Returns:
        The contract that we have, if it grants exactly this; else a new one that follows it.
    Raises:
        PeerRefused, PeerFull, PeerGone, ProtocolViolation.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        try:
            signed = await agree(peer, identity, wanted, since_s=since_s)
            error = None
        except PeerError as failed:  # raised outside the nursery, which would wrap it in a group
            error = failed
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return signed


async def agree(peer: Peer, identity: Identity, wanted: Allowance, *, since_s: int) -> Contract:
    """The same over a connection that runs, and goes on running."""
    status = await _status_if_any(peer)
    held = _parse_contract(peer, status.contract) if status is not None else None
    if held is not None and held.allowance(identity.owner, peer.node) == wanted:
        return held
    terms = Terms(
        serial=held.terms.serial + 1 if held else 1,
        previous=held.digest if held else contract.NO_CONTRACT,
        since_s=since_s,
        until_s=wanted.until_s,
        first=Party(identity.owner, identity.node),
        second=Party(peer.owner, peer.node, wanted.bytes, wanted.fragments, peer.node),
    )
    proposal = contract.propose(identity, terms)
    agreed, _ = await peer.request(wire.Propose(proposal.raw), wire.Agreed)
    signed = _parse_contract(peer, agreed.contract)
    if signed.digest != proposal.digest or not signed.is_signed_by_both:
        raise ProtocolViolation(peer=peer.label, what="it signed something else than we proposed")
    return signed


async def _status_if_any(peer: Peer) -> wire.Status | None:
    try:
        return (await peer.request(wire.Stat(), wire.Status))[0]
    except PeerRefused:
        return None  # no contract yet


def _parse_contract(peer: Peer, raw: bytes) -> Contract:
    try:
        return contract.parse(raw)
    except BadFormat as bad:
        raise ProtocolViolation(peer=peer.label, what=str(bad)) from bad
