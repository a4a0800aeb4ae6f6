"""The caller: dials nodes, and serves what they ask on the connections that it dialled.

A connection carries requests in both directions, whoever dialled: so a friend whom nobody can dial gives and takes
over the one that he dialled himself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.bulk import Door
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.dialling import dial_any
from bitdustfs.engine.handler import Handler, RefuseAll
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.whereabouts import Whereabouts
from bitdustfs.model import NodeId, short
from bitdustfs.ports import Dialer

DIAL_S: Final = 15  # connect, TLS and HELLO: eight times a slow mobile round trip


class Caller:
    """Dials for one process.

    Args:
        handler: who answers what the other side asks; None: everything is refused.
        acquaintances: whose which node is; None: only what is added to those of this caller.
        door: makes a handler that answers BULK too, for each connection; None: nobody can dial us.

    Attributes:
        whereabouts: knows more addresses of a node, and whom to ask; None: only what `reach` is told.
    """

    def __init__(
        self,
        identity: Identity,
        dialer: Dialer,
        *,
        handler: Handler | None = None,
        memory: Memory | None = None,
        pacer: Pacer | None = None,
        connections: Connections | None = None,
        door: Callable[[], Door] | None = None,
        acquaintances: Acquaintances | None = None,
    ) -> None:
        self.identity = identity
        self.dialer = dialer
        self.connections = connections or Connections(identity.node)
        self.pacer = pacer or Pacer()
        self._handler = handler or RefuseAll()
        self._memory = memory or Memory()
        self._door = door
        self.acquaintances = acquaintances or Acquaintances()
        self.whereabouts: Whereabouts | None = None

    async def reach(self, node: NodeId, *, last: str = "") -> Peer:
        """Connect to a node wherever it is, as `dial` does; asks partners where that is if need be.

        Args:
            last: where it answered last, as far as the caller knows.
        Raises:
            PeerGone, WrongPeer, OwnerChanged, ProtocolViolation. BadRequest: `last` is no address.
        """
        known = self.whereabouts
        if known is None:
            return await self.dial(last, node)

        async def more() -> Sequence[str]:
            await known.find(node)
            return known.book.places(node, last=last)

        return await dial_any(
            lambda address: self.dial(address, node),
            known.book.places(node, last=last),
            label=short(node),
            more=more,
            on_wrong=lambda address: known.book.note_wrong(node, address),
        )

    async def dial(self, address: str, expected: NodeId) -> Peer:
        """Connect and greet. The caller runs the peer, in `serving` to serve the other side too, and sets a deadline.

        Raises:
            PeerGone, WrongPeer, OwnerChanged, ProtocolViolation. BadRequest: the address is none.
        """
        link = await self.dialer.dial(address, expected)
        door = self._door() if self._door is not None else None
        peer = Peer(
            link,
            self.identity,
            door or self._handler,
            self._memory,
            pacer=self.pacer,
            features=door.features if door is not None else (),
            check=self.acquaintances.check,
        )
        await peer.greet()
        return peer

    @asynccontextmanager
    async def serving(self, peer: Peer) -> AsyncIterator[None]:
        """Run a peer that was dialled here as long as the block, or the connection."""
        with self.connections.held(peer, dialled=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, peer)
                yield
                nursery.cancel_scope.cancel()

    async def _run(self, peer: Peer) -> None:
        if isinstance(peer.handler, Door):
            async with peer.handler.open():
                await peer.run()
        else:
            await peer.run()
