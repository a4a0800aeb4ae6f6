"""Accords: contracts are compared with each partner who connects, and changed on request.

What one side lost, with an answer or a disk, the other shows it. A notice that could not be delivered is repeated at
each connection until it is signed; it binds us meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import trio

from bitdustfs.core import agreement, contract
from bitdustfs.core.agreement import Wish
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.contract import Contract
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.hiring import agree, repeat
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BitdustError, NotFound, PeerError, PeerGone
from bitdustfs.model import OwnerId, Role, short

log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0
AGAIN_S: Final = 24 * 3600.0  # a connection that lives for long


class Accords:
    """Keeps the contracts of one process in step with the partners that are connected.

    Args:
        is_revoked: says whether a node acts for its owner no more: it is shown nothing, and signs nothing.
    Attributes:
        make_room: sees that there is a shelf for an owner who was promised so many bytes.
    """

    def __init__(
        self,
        clerk: Clerk,
        connections: Connections,
        *,
        is_revoked: Callable[[Certificate], bool] = lambda _node: False,
    ) -> None:
        self.clerk = clerk
        self._is_revoked = is_revoked
        self._connections = connections
        self.make_room: Callable[[OwnerId, int], Awaitable[None]] = _has_room
        self._compared: dict[Peer, float] = {}  # when

    async def run(self) -> None:
        """Compare with each partner once for each connection, and once a day, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for peer in tuple(self._compared):
                    if peer.ended is not None:
                        del self._compared[peer]
                for node in self._connections.nodes():
                    peer = self._connections.of(node)[0]
                    is_due = now - self._compared.get(peer, -AGAIN_S) >= AGAIN_S
                    if is_due and self._is_partner(peer):
                        self._compared[peer] = now
                        nursery.start_soon(self._repeat, peer)
                with trio.move_on_after(AGAIN_S / 24):
                    await self._connections.wait_for_change()

    async def change(self, owner: OwnerId, wish: Wish) -> tuple[Contract, bool]:
        """Change the contract with an owner; durable when this returns.

        Returns:
            The newest contract, or our notice, and whether both have signed it.
        Raises:
            NotFound: there is no contract. PeerRefused, PeerFull: he does not agree, and it is no notice.
            PeerGone: he is not connected, and it is no notice.
        """
        held = self.clerk.newest(owner)
        if held is None:
            raise NotFound(what=f"there is no contract with owner {short(owner)}")
        wish = self._with_notice(owner, wish)
        peer = self._peer_of(owner)
        if peer is None:
            return await self._intend(owner, held, wish), False
        try:
            with trio.fail_after(ANSWER_S):
                return await agree(peer, self.clerk, wish), True
        except (PeerGone, trio.TooSlowError):
            return await self._intend(owner, held, wish), False
        except PeerError as refused:
            notice = self.clerk.notice(owner)
            if notice is None:
                raise
            log.info("the notice to owner %s is not signed: %s", short(owner), refused)
            return notice, False

    def _with_notice(self, owner: OwnerId, wish: Wish) -> Wish:
        """A wish, and what a notice says that he has not signed yet: a second notice does not take back the first."""
        notice = self.clerk.notice(owner)
        if notice is None:
            return wish
        until_s = wish.until_s if wish.until_s is not None else notice.terms.until_s or None
        if wish.gives_bytes is not None:
            return replace(wish, until_s=until_s)
        gives = agreement.party_of(notice, self.clerk.identity.owner).gives_bytes
        return replace(wish, until_s=until_s, gives_bytes=gives, since_s=notice.terms.since_s)

    async def _intend(self, owner: OwnerId, held: Contract, wish: Wish) -> Contract:
        """Note a notice for when he comes. Raises PeerGone: it is none."""
        terms = self.clerk.next_terms(owner, agreement.party_of(held, owner).node, wish)
        if agreement.is_granted(held, terms):
            await self.clerk.abandon(owner)  # a notice that he has not signed is taken back
            return held
        if not agreement.takes_away(held, terms, owner):
            raise PeerGone(peer=short(owner), what="it is not connected: more can be agreed when it is")
        proposal = contract.propose(self.clerk.identity, terms)
        await self.clerk.intend(owner, proposal)
        return proposal

    async def _repeat(self, peer: Peer) -> None:
        try:
            with trio.move_on_after(ANSWER_S):
                await repeat(peer, self.clerk)
                await self._take_place(peer)
        except BitdustError as error:
            log.debug("contracts with %s are not compared: %s", peer.label, error)
        except Exception:  # a fault with one partner costs no other
            log.exception("contracts with %s could not be compared", peer.label)

    async def _take_place(self, peer: Peer) -> None:
        """Keep here from now on what a machine of ours kept that is gone, if there is one. Raises PeerError …"""
        held, own = self.clerk.newest(peer.owner), self.clerk.identity.certificate
        if held is None or own.role is Role.READER or not agreement.is_orphaned(held, own):
            return
        await self.make_room(peer.owner, agreement.party_of(held, own.owner).gives_bytes)
        await agree(peer, self.clerk, Wish())
        log.warning(
            "this machine keeps now what another one of yours kept for owner %s, who makes again what was there",
            short(peer.owner),
        )

    def _is_partner(self, peer: Peer) -> bool:
        has_any = peer.owner in self.clerk.agreements or self.clerk.proposal(peer.owner) is not None
        return has_any and not self._is_revoked(peer.certificate)

    def _peer_of(self, owner: OwnerId) -> Peer | None:
        peers = (peer for node in self._connections.nodes() for peer in self._connections.of(node))
        valid = (peer for peer in peers if peer.owner == owner and not self._is_revoked(peer.certificate))
        return next(valid, None)


async def _has_room(_owner: OwnerId, _bytes: int) -> None:
    return
