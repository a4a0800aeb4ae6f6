"""The reception: takes in who dials us, and serves each connection in a task of its own.

Anybody can make a key and a certificate, so a connection proves nothing by itself. There is room for MAX_CONNECTIONS;
when it is full, the one that gives way is the oldest of a node that we know nothing of.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.core.wire import printable
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.bulk import Door, Seats
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.inviting import Host
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import OwnerChanged, PeerError, PeerGone
from bitdustfs.model import NodeId, OwnerId, short
from bitdustfs.ports import Entropy, Link, Listener

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 256
HELLO_S: Final = 10
NODE_CONNECTIONS: Final = 4  # of one node that we know; more of them give way like a stranger's
OWNER_CONNECTIONS: Final = 32  # of all nodes of one owner, for he can certify as many as he likes


class Reception:
    """Everybody who dialled us.

    Args:
        knows: says whether an owner has rights here; connections of others give way first.
        is_stranger: says whether nothing was ever agreed with an owner; None: those whom `knows` does not know.
        on_peer: called with each greeted connection before it is served, as `Suppliers.adopt`.
        connections: where they are noted.
        entropy: for the tickets of bulk connections; None: there are none.
        host: takes in who has an invitation; None: nobody does.
        acquaintances: whose which node is; None: nobody knows.
    """

    def __init__(
        self,
        identity: Identity,
        handler: Handler,
        *,
        knows: Callable[[OwnerId], bool],
        is_stranger: Callable[[OwnerId], bool] | None = None,
        on_peer: Callable[[Peer], object] = lambda peer: None,
        memory: Memory | None = None,
        entropy: Entropy | None = None,
        pacer: Pacer | None = None,
        connections: Connections | None = None,
        host: Host | None = None,
        acquaintances: Acquaintances | None = None,
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._host = host
        self._knows = knows
        self._is_stranger = is_stranger or (lambda owner: not knows(owner))
        self._on_peer = on_peer
        self._memory = memory or Memory()
        self._entropy = entropy
        self._pacer = pacer or Pacer()
        self._noted = connections or Connections(identity.node)
        self._acquaintances = acquaintances or Acquaintances()
        self._seats = Seats()
        self._unknown: dict[trio.CancelScope, None] = {}  # connections that give way, oldest first
        self._connections = 0
        self._of_node: Counter[NodeId] = Counter()  # connections that do not give way
        self._of_owner: Counter[OwnerId] = Counter()  # the same

    @property
    def connections(self) -> int:
        """How many connections there are now, greeted or not."""
        return self._connections

    async def run(self, listener: Listener) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                link = await listener.accept()
                if self._connections >= MAX_CONNECTIONS and not self._make_room():
                    log.warning("refused %s: %d connections are open", link.address, self._connections)
                    nursery.start_soon(link.aclose)
                    continue
                self._connections += 1
                nursery.start_soon(self._serve, link, listener)

    def door(self, listener: Listener, came_from: str | None = None) -> Door:
        """A handler for one more connection with somebody who could dial `listener`, whoever dialled this one.

        Args:
            came_from: ADDR:PORT of one who dialled us, and may join.
        """
        handler = self._handler
        if self._host is not None and came_from is not None:
            handler = self._host.doorstep(handler, came_from)
        return Door(handler, listener, self._seats, self._identity, self._memory, self._entropy, self._pacer)

    def _make_room(self) -> bool:
        oldest = next(iter(self._unknown), None)
        if oldest is None:
            return False
        del self._unknown[oldest]
        oldest.cancel()
        return True

    async def _serve(self, link: Link, listener: Listener) -> None:
        scope = trio.CancelScope()
        self._unknown[scope] = None
        try:
            with scope:
                door = self.door(listener, link.address)
                peer = Peer(
                    link,
                    self._identity,
                    door,
                    self._memory,
                    pacer=self._pacer,
                    features=door.features,
                    is_stranger=self._is_stranger,
                    check=self._acquaintances.check,
                )
                with trio.fail_after(HELLO_S):
                    await peer.greet()
                log.debug("owner %s, node %s is connected", short(peer.owner), peer.label)
                await self._welcome(peer, door, scope)
        except (PeerError, trio.TooSlowError) as refused:
            what = printable(str(refused)) if isinstance(refused, PeerError) else "no HELLO in time"
            if not isinstance(refused, PeerGone | OwnerChanged):  # the latter is logged, and not too often
                log.warning("refused %s: %s", link.address, what)
        except Exception:  # a fault in one connection must not end the others
            log.exception("the connection from %s failed", link.address)
        finally:
            self._connections -= 1
            self._unknown.pop(scope, None)
            with trio.move_on_after(1, shield=True):
                await link.aclose()

    async def _welcome(self, peer: Peer, door: Door, scope: trio.CancelScope) -> None:
        is_known = (
            self._knows(peer.owner)
            and self._of_node[peer.node] < NODE_CONNECTIONS
            and self._of_owner[peer.owner] < OWNER_CONNECTIONS
        )
        if is_known:
            self._unknown.pop(scope, None)
            self._of_node[peer.node] += 1
            self._of_owner[peer.owner] += 1
        try:
            with self._noted.held(peer, dialled=False):
                self._on_peer(peer)
                async with door.open():
                    await peer.run()
        finally:
            if is_known:
                self._of_node[peer.node] -= 1
                self._of_owner[peer.owner] -= 1
                self._of_node += Counter()  # drops what is zero
                self._of_owner += Counter()
