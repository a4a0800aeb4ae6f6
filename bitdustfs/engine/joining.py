"""Joining: the side that got an invitation from a friend; `inviting` is the other one and has the picture.

The friend's machine is pinned at the first connection: the line has 128 bits of its node id, and from then on the
whole id counts. Nothing is signed before it has shown that it made the invitation. Doing it again with the same line,
from the same machine, ends in the same contract, whenever either side was interrupted.

What is proposed here is kept before it leaves, as every proposal is (engine/clerk): one that was refused, or that the
friend does not show when he is asked again, is void, and no signature that he puts under it later counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from bitdustfs.core import contract, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract, Party, Terms
from bitdustfs.core.invitation import NONCE_BYTES, Line, guest_proof, host_proof, proves
from bitdustfs.core.invited import MAX_ADDRESSES, Wish, fit
from bitdustfs.core.wire import Refused
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.errand import converse
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BadFormat, BadRequest, PeerError, PeerLacks, PeerRefused, ProtocolViolation
from bitdustfs.model import NodeId, OwnerId
from bitdustfs.ports import Dialer, Entropy, Wall

JOIN_S: Final = 30.0  # for all of it; the friend's machine may take some seconds to dial back
_MAYBE = (Refused.UNAVAILABLE, Refused.FAULT)  # it may have signed before that happened


@dataclass(frozen=True, slots=True)
class Friendship:
    """What came of it."""

    node: NodeId  # the friend's machine, and its owner
    owner: OwnerId
    address: str  # where it was dialled
    contract: Contract  # signed by both
    was_done: bool  # the contract was there before
    seen: str  # ADDR:PORT from which the friend's machine saw us come; not checked
    reached: str  # ADDR:PORT where it could dial us; "": nowhere, or it did not try


async def join(
    dialer: Dialer,
    identity: Identity,
    line: Line,
    wish: Wish,
    *,
    clerk: Clerk,
    addresses: Sequence[str],
    entropy: Entropy,
    wall: Wall,
    acquaintances: Acquaintances | None = None,
) -> Friendship:
    """Join by an invitation. The caller sets the deadline, and lets the clerk keep what comes of it.

    Args:
        clerk: keeps what is proposed, and makes void what is refused.
        wish: what we offer and need.
        addresses: ADDR:PORT where we say that we can be dialled.
        acquaintances: whose which node is; None: what the clerk knows of that.
    Raises:
        PeerGone: nobody is there. WrongPeer: another machine is. OwnerChanged: it was somebody else's.
        ProtocolViolation: it did not make this invitation.
        PeerRefused: it says no, and why. BadRequest: what both want does not fit, or a notice is in the way.
    """
    known = acquaintances or Acquaintances(clerk.owner_of)
    peer = Peer(await dialer.dial_front(line.address, line.front), identity, check=known.check)
    await peer.greet()
    guest = _Guest(peer, clerk, line, tuple(addresses[:MAX_ADDRESSES]), entropy, wall)
    return await converse(peer, lambda: guest.join(wish))


class _Guest:
    """One conversation."""

    def __init__(
        self, peer: Peer, clerk: Clerk, line: Line, addresses: tuple[str, ...], entropy: Entropy, wall: Wall
    ) -> None:
        self._peer = peer
        self._clerk = clerk
        self._identity = clerk.identity
        self._line = line
        self._ticket = line.ticket
        self._addresses = addresses
        self._nonce = entropy.bytes(NONCE_BYTES)
        self._host_nonce = b""
        self._now_s = wall.now_ns() // 1_000_000_000

    async def join(self, wish: Wish) -> Friendship:
        peer = self._peer
        if peer.owner == self._identity.owner:
            raise PeerRefused(peer=peer.label, what="this is your own invitation: it is for a friend")
        knock = wire.Knock(self._ticket.mark, self._nonce)
        self._host_nonce = (await peer.request(knock, wire.Challenge))[0].nonce
        told = await self._ask(b"")
        before = self._contract_in(told) if told.is_done or told.contract else None
        is_void = before is not None and self._clerk.is_void(before, peer.owner)
        if before is not None and told.is_done:
            if is_void:
                raise self._violation("it signed what it had refused before")
            return self._friendship(told, before, was_done=True)
        if is_void:
            before = self._clerk.newest(peer.owner)  # what is proposed follows that one, and puts the other out
        if self._clerk.notice(peer.owner) is not None:
            raise BadRequest(what="a notice that you gave this friend is not signed yet: let it be, or take it back")
        await self._settle(before)
        proposal = self._propose(told, before, wish)
        told = await self._send(proposal)
        agreed = self._contract_in(told)
        if agreed.digest != proposal.digest:
            raise self._violation("it signed something else than we proposed")
        return self._friendship(told, agreed, was_done=False)

    async def _settle(self, before: Contract | None) -> None:
        """What was proposed before holds if the friend shows it now, as after another invitation; else it is void."""
        owner = self._peer.owner
        meant = self._clerk.proposal(owner)
        if meant is not None and before is not None and before.digest == meant.digest:
            await self._clerk.keep(owner, before)
        await self._clerk.abandon(owner)

    async def _send(self, proposal: Contract) -> wire.Joined:
        owner = self._peer.owner
        await self._clerk.intend(owner, proposal)
        try:
            return await self._ask(proposal.raw)
        except PeerError as refused:
            code = refused.facts.get("code")
            if code is not None and code not in _MAYBE:
                with trio.CancelScope(shield=True):
                    await self._clerk.abandon(owner)
            raise

    async def _ask(self, proposal: bytes) -> wire.Joined:
        """Show the token, and check that the other side has it too."""
        ticket, host, guest = self._ticket, self._peer.node, self._identity.node
        nonces = {"host_nonce": self._host_nonce, "guest_nonce": self._nonce}
        proof = guest_proof(ticket, host, guest, **nonces)
        try:
            told, _ = await self._peer.request(
                wire.Join(self._ticket.mark, proof, self._addresses, proposal), wire.Joined
            )
        except PeerLacks as lacks:
            what = "it does not know this invitation: a mistake in it, or one from long ago"
            raise PeerRefused(peer=self._peer.label, what=what, code=Refused.NOT_FOUND) from lacks
        if not proves(told.proof, host_proof(ticket, host, guest, **nonces)):
            raise self._violation("it could not show that it made this invitation; nothing was signed")
        return told

    def _propose(self, told: wire.Joined, before: Contract | None, wish: Wish) -> Contract:
        """What fits both, after the contract that there is, if there is one; nobody gives less than before."""
        host_gives, guest_gives = fit(Wish(told.offers, told.needs), wish)
        serial, previous = 1, contract.NO_CONTRACT
        if before is not None:
            serial, previous = before.terms.serial + 1, before.digest
            host_gives = max(host_gives, before.gives(self._peer.owner))
            guest_gives = max(guest_gives, before.gives(self._identity.owner))
        terms = Terms(
            serial=max(serial, self._clerk.next_serial(self._peer.owner)),
            previous=previous,
            since_s=self._now_s,
            until_s=0,
            first=_party(self._identity.owner, self._identity.node, guest_gives),
            second=_party(self._peer.owner, self._peer.node, host_gives),
        )
        return contract.propose(self._identity, terms)

    def _contract_in(self, told: wire.Joined) -> Contract:
        """The contract that was told, if it is one between the two of us, signed by both."""
        try:
            agreed = contract.parse(told.contract)
        except BadFormat as bad:
            raise self._violation(str(bad)) from bad
        owners = {agreed.terms.first.owner, agreed.terms.second.owner}
        if not agreed.is_signed_by_both or owners != {self._identity.owner, self._peer.owner}:
            raise self._violation("it showed a contract that is not between the two of us")
        return agreed

    def _friendship(self, told: wire.Joined, agreed: Contract, *, was_done: bool) -> Friendship:
        return Friendship(
            node=self._peer.node,
            owner=self._peer.owner,
            address=self._line.address,
            contract=agreed,
            was_done=was_done,
            seen=wire.printable(told.seen),
            reached=wire.printable(told.reached),
        )

    def _violation(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(peer=self._peer.label, what=what)


def _party(owner: OwnerId, node: NodeId, gives: int) -> Party:
    if not gives:
        return Party(owner, node)
    return Party(owner, node, gives, contract.fragments_for(gives), node)
