"""Partners: nodes to which a connection is kept though they are no suppliers of ours.

Each has one task. It dials when no connection with the node is there, whoever dialled that, and waits longer after
each failure, with jitter. So one of two friends that others can dial is enough: whoever cannot be dialled, dials.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from bitdustfs.engine.caller import DIAL_S, Caller
from bitdustfs.engine.connections import settle
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.relation import BACKOFF_CAP_S, BACKOFF_S, STEADY_S, jittered_s
from bitdustfs.errors import BitdustError
from bitdustfs.model import NodeId, short
from bitdustfs.ports import Entropy

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0  # how soon a new partner, or a new address, is noticed
MAX_DIALS: Final = 8  # at once
MAX_PARTNERS: Final = 256  # as many as the reception has room for

Wanted = Callable[[], Mapping[NodeId, Sequence[str]]]


class Partners:
    """Keeps connections.

    Args:
        wanted: the nodes, and where each was last seen, as far as that is known; asked again and again.
        on_peer: called with each connection that was dialled here, as `Suppliers.adopt`.
    """

    def __init__(
        self,
        caller: Caller,
        entropy: Entropy,
        wanted: Wanted,
        *,
        on_peer: Callable[[Peer], object] = lambda peer: None,
    ) -> None:
        self._caller = caller
        self._entropy = entropy
        self._wanted = wanted
        self._on_peer = on_peer
        self._kept: set[NodeId] = set()
        self._dials = trio.CapacityLimiter(MAX_DIALS)
        self._nudged = trio.Event()

    def nudge(self) -> None:
        """Try everybody who is not connected at once: something has changed."""
        self._nudged.set()
        self._nudged = trio.Event()

    async def run(self) -> None:
        """Keep a connection to each until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    for node in self._wanted():
                        if node not in self._kept and len(self._kept) < MAX_PARTNERS:
                            self._kept.add(node)
                            nursery.start_soon(self._keep, node)
                    await trio.sleep(LOOK_S)
        finally:
            self._kept.clear()

    async def _keep(self, node: NodeId) -> None:
        backoff_s = BACKOFF_S
        try:
            while (addresses := self._wanted().get(node)) is not None:
                if self._caller.connections.of(node):
                    await self._caller.connections.wait_for_change()
                    continue
                for address in addresses or ("",):
                    if await self._try(address, node) > STEADY_S:
                        backoff_s = BACKOFF_S
                nudged = self._nudged
                with trio.move_on_after(jittered_s(backoff_s, self._entropy)):
                    await nudged.wait()
                backoff_s = BACKOFF_S if nudged.is_set() else min(backoff_s * 2, BACKOFF_CAP_S)
        finally:
            self._kept.discard(node)

    async def _try(self, address: str, node: NodeId) -> float:
        """Dial, and stay as long as the connection does: so many seconds. A fault costs this node only."""
        if self._caller.connections.of(node):
            return 0.0
        try:
            async with self._dials:
                with trio.move_on_after(DIAL_S) as dialling:
                    peer = await self._caller.reach(node, last=address)
            if not dialling.cancelled_caught:
                since = trio.current_time()
                await self._stay(peer)
                return trio.current_time() - since
            log.debug("partner %s at %s: no answer in %d s", short(node), address, DIAL_S)
        except BitdustError as error:
            log.debug("partner %s at %s: %s", short(node), address, error)
        except Exception:
            log.exception("the connection to partner %s failed", short(node))
        return 0.0

    async def _stay(self, peer: Peer) -> None:
        async with self._caller.serving(peer):
            log.debug("partner %s is connected", peer.label)
            self._on_peer(peer)
            connections = self._caller.connections
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_closed, peer, nursery.cancel_scope)
                while not connections.is_surplus(peer):
                    await connections.wait_for_change()
                nursery.cancel_scope.cancel()
            await settle(peer)


async def _cancel_when_closed(peer: Peer, scope: trio.CancelScope) -> None:
    await peer.closed.wait()
    scope.cancel()
