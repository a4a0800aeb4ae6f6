"""Whereabouts: partners tell each other where they can be dialled, and where a third one is.

    me                                 partner                        another partner
    HERE, my record, where I see it -->  keeps it, if it is newer
                                    <--  HERE, the same of it
    WHERE node?   ------------------------------------------------------->  THERE, the record of that node

Each side tells once on each connection, and again whenever its record is another one. Only partners tell and are
told: owners with a contract on either side. What they say of third nodes is what those signed, so it can be old or
missing and never false. A node id is asked for by those who know it, and only they understand the answer: that we
know this node, and where it said that it is. What peers say of where they see us is only counted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from bitdustfs.core import addresses, record, wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.record import Record
from bitdustfs.core.sources import SourceBudgets
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BadFormat, PeerError
from bitdustfs.model import NodeId, OwnerId, short

log = logging.getLogger(__name__)

TELL_S: Final = 15.0  # for a partner to answer
LOOK_S: Final = 5.0  # how soon it is noticed that a connected node has become a partner
ASK_S: Final = 5.0  # for partners to say where a node is
MAX_ASKED: Final = 16  # partners who are asked for one node
ASK_AGAIN_S: Final = 5.0  # a node that cannot be reached is asked for at most so often
MAX_REPORTERS: Final = 64  # owners whose view of us is counted
NEWS_BURST: Final = 16  # what one owner may say anew at once: four connections of four nodes
NEWS_PER_S: Final = 0.1  # and later on

Lookup = Callable[[NodeId], Awaitable[bytes]]


class Informed:
    """A handler that answers HERE and WHERE; all else is the inner one's."""

    def __init__(self, inner: Handler, whereabouts: Whereabouts) -> None:
        self._inner = inner
        self._whereabouts = whereabouts

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if not isinstance(request, wire.Here | wire.Where):
            return self._inner.admit(caller, request)
        if self._whereabouts.is_partner(caller):
            return None
        return wire.Refusal(wire.Refused.NO_CONTRACT, "addresses are told to partners only")

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        if not isinstance(request, wire.Here | wire.Where):
            self._inner.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        match request:
            case wire.Here():
                return self._whereabouts.hear(caller, request), ()
            case wire.Where():
                return wire.There(self._whereabouts.shown(request.node)), ()
            case _:
                return await self._inner.answer(caller, request, body)


class Whereabouts:
    """What this process tells and asks.

    Args:
        is_partner: whether there is a contract with this node's owner, on either side, and it was not revoked.

    Attributes:
        owner_of: whose a node is of which the book has nothing yet.
        lookup: asks elsewhere for the record of a node, when no partner knows better; may take long. b"": not found.
        on_seen: called when a partner says that it sees us elsewhere than before.
    """

    def __init__(
        self, book: AddressBook, connections: Connections, *, is_partner: Callable[[Certificate], bool]
    ) -> None:
        self.book = book
        self.is_partner = is_partner
        self.lookup: Lookup | None = None
        self.owner_of: Callable[[NodeId], OwnerId | None] = lambda _node: None
        self.on_seen: Callable[[], None] = lambda: None
        self._connections = connections
        self._told: dict[Peer, int] = {}  # the sequence number of our record that each connection has
        self._seen: dict[OwnerId, dict[tuple[int, bool], str]] = {}  # by family, and whether he dialled us
        self._asked: dict[NodeId, float] = {}
        self._news = SourceBudgets(NEWS_PER_S, NEWS_BURST)
        self._waits = trio.Event()
        book.on_own.append(lambda: self._waits.set())

    @property
    def seen(self) -> Mapping[OwnerId, tuple[str, ...]]:
        """Where partners see us."""
        return {owner: tuple(places.values()) for owner, places in self._seen.items()}

    def forget_seen(self) -> None:
        """Our addresses are others now: what peers saw is over."""
        self._seen.clear()

    # -- answering ------------------------------------------------------------------------------------------------

    def hear(self, caller: Certificate, told: wire.Here) -> wire.Answer:
        """Take in what a partner says of itself."""
        try:
            found = record.parse(told.record)
        except BadFormat as bad:
            return wire.Refusal(wire.Refused.BAD_REQUEST, str(bad)[:200])
        if found.signer != caller.node:
            return wire.Refusal(wire.Refused.NOT_ALLOWED, "that record is another node's")
        if self._is_news(found, caller.owner, told.seen) and not self._news.take(
            caller.owner.hex(), trio.current_time()
        ):
            return wire.Refusal(wire.Refused.UNAVAILABLE, "that is news too often: it is not heard now")
        self.book.learn(found, caller.owner, by_itself=True)
        self._note_seen(caller.owner, told.seen)
        return wire.Done()

    def _is_news(self, found: Record, owner: OwnerId, seen: str) -> bool:
        before = self.book.record(found.signer)
        is_seen = seen in self._seen.get(owner, {}).values()
        return before is None or before.sequence < found.sequence or not is_seen

    def shown(self, node: bytes) -> bytes:
        """The record of a node, for a partner who asks for it."""
        return self.book.shown(NodeId(node))

    def _note_seen(self, owner: OwnerId, place: str) -> None:
        parts = addresses.split(place)
        if parts is None or (owner not in self._seen and len(self._seen) >= MAX_REPORTERS):
            return
        ip, port = parts
        places = self._seen.setdefault(owner, {})
        if places.get((ip.version, bool(port))) != place:
            places[ip.version, bool(port)] = place
            self.on_seen()

    # -- telling --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell every partner who is connected, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                own = self.book.own
                peers = self._connections.peers()
                self._told = {peer: told for peer, told in self._told.items() if peer in peers}
                if own is not None:
                    for peer in peers:
                        if self._told.get(peer, 0) < own.sequence and self.is_partner(peer.certificate):
                            self._told[peer] = own.sequence
                            nursery.start_soon(self._tell, peer, own)
                self._waits = trio.Event()
                with trio.move_on_after(LOOK_S):
                    async with trio.open_nursery() as waiting:
                        waiting.start_soon(_cancel_after, self._connections.wait_for_change, waiting.cancel_scope)
                        waiting.start_soon(_cancel_after, self._waits.wait, waiting.cancel_scope)

    async def _tell(self, peer: Peer, own: Record) -> None:
        try:
            with trio.move_on_after(TELL_S):
                await peer.request(wire.Here(own.raw, self._view_of(peer)), wire.Done)
        except PeerError as error:
            log.debug("%s was not told where we are: %s", peer.label, error)

    def _view_of(self, peer: Peer) -> str:
        """Where we see a peer."""
        parts = addresses.split(peer.address)
        if parts is None:
            return ""
        ip, port = parts
        return addresses.join(ip, port if self._connections.is_dialled(peer) else 0)

    # -- asking ---------------------------------------------------------------------------------------------------

    async def find(self, node: NodeId) -> bool:
        """Ask where a node of a known owner is that cannot be reached. Returns whether something new was learnt.

        Asks partners first, then `lookup`; does nothing if that was done a moment ago.
        """
        now, owner = trio.current_time(), self.book.owner_of(node) or self.owner_of(node)
        if owner is None or now < self._asked.get(node, -ASK_AGAIN_S) + ASK_AGAIN_S:
            return False
        self._asked.pop(node, None)
        self._asked[node] = now
        while len(self._asked) > MAX_ASKED * MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        before = self.book.record(node)
        peers = [self._connections.of(each)[0] for each in self._connections.nodes() if each != node]
        partners = [peer for peer in peers if self.is_partner(peer.certificate)][:MAX_ASKED]
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for peer in partners:
                    nursery.start_soon(self._ask, peer, node, owner)
        if self.book.record(node) is before and self.lookup is not None:
            self._take(node, owner, await self.lookup(node), "the lookup")
        return self.book.record(node) is not before

    async def _ask(self, peer: Peer, node: NodeId, owner: OwnerId) -> None:
        try:
            there, _ = await peer.request(wire.Where(node), wire.There)
        except PeerError as error:
            log.debug("%s does not say where %s is: %s", peer.label, short(node), error)
            return
        self._take(node, owner, there.record, peer.label)

    def _take(self, node: NodeId, owner: OwnerId, raw: bytes, teller: str) -> None:
        if not raw:
            return
        try:
            found = record.parse(raw)
        except BadFormat as bad:
            log.warning("what %s says of where %s is cannot be read: %s", teller, short(node), bad)
            return
        if found.signer == node and self.book.learn(found, owner):
            log.info("%s says where node %s is now", teller, short(node))


async def _cancel_after(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()
