"""Reaching: whether this machine can be dialled, found out by a partner who is connected and tries it.

    me                    partner
    REACH            -->  dials the host that my connection comes from, at the port that I announce, and hangs up
                     <--  REACHED, where that was, and whether I was there

If the partner had dialled me, he dials the same place again. He dials nobody but who asks, at no host but that which
it comes from; one try at a time for all of them, and few for each owner. So nobody can make him knock at others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from bitdustfs.core import record, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.reach import Scope, is_place, place_to_try, scope_of
from bitdustfs.core.sources import SourceBudgets
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BitdustError, PeerError
from bitdustfs.model import NodeId, OwnerId
from bitdustfs.ports import Dialer

log = logging.getLogger(__name__)

DIAL_S: Final = 4.0  # (tune) for one try: a firewall that drops says nothing
ASK_S: Final = 2 * DIAL_S  # for a partner to answer
MAX_ASKED: Final = 4  # partners
BURST: Final = 4  # tries for one owner at once
PER_S: Final = 0.1  # and later on


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it with one partner."""

    node: NodeId
    owner: OwnerId
    reached: str  # ADDR:PORT where he could dial us; "": nowhere
    tried: str  # where he tried; "": there was nothing to try


class Reaching:
    """A handler that answers REACH, and asks it; all else is the inner one's."""

    def __init__(
        self,
        inner: Handler,
        dialer: Dialer,
        connections: Connections,
        book: AddressBook,
        *,
        is_partner: Callable[[Certificate], bool],
    ) -> None:
        self._inner = inner
        self._dialer = dialer
        self._connections = connections
        self._book = book
        self._is_partner = is_partner
        self._budgets = SourceBudgets(PER_S, BURST)
        self._trying = trio.Lock()

    # -- answering ------------------------------------------------------------------------------------------------

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if not isinstance(request, wire.Reach):
            return self._inner.admit(caller, request)
        if not self._is_partner(caller):
            return wire.Refusal(wire.Refused.NO_CONTRACT, "only partners are dialled")
        if self._trying.locked() or not self._budgets.take(caller.owner.hex(), trio.current_time()):
            return wire.Refusal(wire.Refused.UNAVAILABLE, "others are tried, or you were just now: ask again")
        return None

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        if not isinstance(request, wire.Reach):
            self._inner.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if not isinstance(request, wire.Reach):
            return await self._inner.answer(caller, request, body)
        async with self._trying:
            place = self._place(caller.node)
            return wire.Reached(place, place != "" and await self._is_there(place, caller.node)), ()

    def _place(self, node: NodeId) -> str:
        """Where to dial a node that is connected."""
        peer = next(iter(self._connections.of(node)), None)
        if peer is None:
            return ""
        if self._connections.is_dialled(peer):
            return peer.address
        told = self._book.record(node)
        return place_to_try(peer.address, record.addresses_of(told) if told is not None else ())

    async def _is_there(self, place: str, node: NodeId) -> bool:
        with trio.move_on_after(DIAL_S):
            try:
                link = await self._dialer.dial(place, node)
                await link.aclose()
                return True
            except BitdustError as error:
                log.debug("it was asked to be dialled at %s, and is not there: %s", place, error)
        return False

    # -- asking ---------------------------------------------------------------------------------------------------

    async def ask(self) -> Sequence[Tried]:
        """Ask some partners who are connected, those elsewhere first, whether they can dial us. Ends in ASK_S."""
        peers = [self._connections.of(node)[0] for node in self._connections.nodes()]
        partners = [peer for peer in peers if self._is_partner(peer.certificate)]
        partners.sort(key=lambda peer: scope_of(peer.address) is not Scope.WORLD)
        told: list[Tried] = []
        async with trio.open_nursery() as nursery:
            for peer in partners[:MAX_ASKED]:
                nursery.start_soon(self._ask, peer, told)
        return told

    async def _ask(self, peer: Peer, told: list[Tried]) -> None:
        try:
            with trio.move_on_after(ASK_S):
                found, _ = await peer.request(wire.Reach(), wire.Reached)
                place = _as_place(found.address)
                told.append(Tried(peer.node, peer.owner, place if found.is_there else "", place))
        except PeerError as error:
            log.debug("%s does not try to dial us: %s", peer.label, error)


def _as_place(said: str) -> str:
    """What a partner says where he dialled us, written as we write it; "": that is no place."""
    return place_to_try(said, (said,)) if is_place(said) else ""
