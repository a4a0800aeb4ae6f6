"""Hiring, and every other change of a contract: agree with one node, over a connection to it."""

from __future__ import annotations

import trio

from bitdustfs.core import agreement, contract, wire
from bitdustfs.core.agreement import Wish
from bitdustfs.core.contract import Contract
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.errand import converse
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BadFormat, PeerError, PeerRefused, ProtocolViolation

TRIES = 10  # a change that crosses another is proposed again after it
_PAUSE_S = 0.5
_AGAIN = (wire.Refused.CROSSED, wire.Refused.UNAVAILABLE)


async def hire(peer: Peer, clerk: Clerk, wish: Wish) -> Contract:
    """As `agree`, with a peer that is only greeted; then end the connection. The caller sets the deadline."""
    return await converse(peer, lambda: agree(peer, clerk, wish))


async def agree(peer: Peer, clerk: Clerk, wish: Wish) -> Contract:
    """Propose a change to the contract with a peer's owner, over a connection that runs, and goes on running.

    Returns:
        The contract that both signed: the newest that we had, if it says exactly this, or one that follows it.
    Raises:
        PeerRefused, PeerFull: it does not agree. A notice of ours binds us all the same (Clerk.notice), and is
            proposed again. PeerGone, ProtocolViolation.
    """
    for _ in range(TRIES):
        await compare(peer, clerk)
        held = clerk.newest(peer.owner)
        terms = clerk.next_terms(peer.owner, peer.node, wish)
        if held is not None and agreement.is_granted(held, terms):
            await clerk.abandon(peer.owner)
            return held
        signed = await _propose(peer, clerk, contract.propose(clerk.identity, terms))
        if signed is not None:
            return signed
        await trio.sleep(_PAUSE_S)
    raise PeerError(peer=peer.label, what="it is busy with other contracts all the time")


async def compare(peer: Peer, clerk: Clerk) -> None:
    """Show a peer the contracts that we hold with its owner, and take what it has newer."""
    await clerk.settle(peer.owner)
    try:
        told, _ = await peer.request(wire.Compare(clerk.shown(peer.owner)), wire.Compared)
    except PeerRefused:
        await clerk.resolve(peer.owner)
        return  # it keeps no contracts
    await clerk.take(peer.owner, told.contracts)
    await clerk.resolve(peer.owner)


async def repeat(peer: Peer, clerk: Clerk) -> None:
    """Compare contracts, and propose again what was proposed and not answered. Raises PeerError."""
    await compare(peer, clerk)
    meant, held = clerk.proposal(peer.owner), clerk.newest(peer.owner)
    if meant is None:
        return
    if held is None or clerk.notice(peer.owner) is None:
        if meant.terms.previous == (held.digest if held else contract.NO_CONTRACT):
            await _propose(peer, clerk, meant)
        else:
            await clerk.abandon(peer.owner)  # another contract came between, and it takes nothing away
        return
    us = agreement.party_of(meant, clerk.identity.owner)
    gives = min(us.gives_bytes, agreement.party_of(held, us.owner).gives_bytes)
    wish = Wish(gives_bytes=gives, until_s=meant.terms.until_s or None, since_s=meant.terms.since_s)
    await agree(peer, clerk, wish)


async def _propose(peer: Peer, clerk: Clerk, proposal: Contract) -> Contract | None:
    """Send a proposal. None: another contract of theirs goes first, or is being saved there: again after it."""
    await clerk.intend(peer.owner, proposal)
    is_refused = False
    try:
        agreed, _ = await peer.request(wire.Propose(proposal.raw), wire.Agreed)
        signed = _parse_contract(peer, agreed.contract)
        if signed.digest != proposal.digest or not signed.is_signed_by_both:
            raise ProtocolViolation(peer=peer.label, what="it signed something else than we proposed")
    except PeerError as error:
        code = error.facts.get("code")
        is_refused = code is not None
        if code in _AGAIN:
            return None
        raise
    finally:
        if is_refused and clerk.notice(peer.owner) is None:
            with trio.CancelScope(shield=True):
                await clerk.abandon(peer.owner)
        elif clerk.proposal(peer.owner) is proposal:
            clerk.unanswered(peer.owner)  # if it has signed all the same, it will show that
    await clerk.keep(peer.owner, signed)
    return signed


def _parse_contract(peer: Peer, raw: bytes) -> Contract:
    try:
        return contract.parse(raw)
    except BadFormat as bad:
        raise ProtocolViolation(peer=peer.label, what=str(bad)) from bad
