"""The greeted connections of a process, by node, whoever dialled.

Two nodes that dial each other at the same moment get two connections, and one is enough. Both sides judge alike: the
one that the node with the lower id dialled stays, and the other node takes its own back once nothing is under way
there. Until then both serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from bitdustfs.engine.peer import Peer
from bitdustfs.model import NodeId

SETTLE_S: Final = 30.0  # for what is under way on a connection that is given up for another
_LOOK_S = 0.1


class Connections:
    """Who is connected now. Entered by whoever runs the peers."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._of: dict[NodeId, dict[Peer, bool]] = {}  # whether we dialled it; the newest last
        self._changed = trio.Event()

    @contextmanager
    def held(self, peer: Peer, *, dialled: bool) -> Iterator[None]:
        """Count a greeted connection as long as the block runs."""
        self._of.setdefault(peer.node, {})[peer] = dialled
        self._note_change()
        try:
            yield
        finally:
            held = self._of[peer.node]
            del held[peer]
            if not held:
                del self._of[peer.node]
            self._note_change()

    def of(self, node: NodeId) -> Sequence[Peer]:
        """The connections with a node that have not ended, the newest first."""
        return [peer for peer in reversed(self._of.get(node, {})) if peer.ended is None]

    def nodes(self) -> Sequence[NodeId]:
        """The nodes that are connected."""
        return [node for node in self._of if self.of(node)]

    def peers(self) -> Sequence[Peer]:
        """All that have not ended, also two with one node."""
        return [peer for node in self._of for peer in self.of(node)]

    def is_dialled(self, peer: Peer) -> bool:
        """Say whether we dialled it."""
        return self._of.get(peer.node, {}).get(peer, False)

    def prefers_own(self, node: NodeId) -> bool:
        """Of two connections with a node, one dialled by each side: say whether it is ours that stays."""
        return self._own < node

    def is_surplus(self, peer: Peer) -> bool:
        """Say whether a connection that we dialled gives way to one that the other side dialled."""
        if self.prefers_own(peer.node):
            return False
        return any(not dialled and other.ended is None for other, dialled in self._of.get(peer.node, {}).items())

    async def wait_for_change(self) -> None:
        """Wait until a connection comes or goes."""
        await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def settle(peer: Peer) -> None:
    """Wait until nothing is under way on a connection, in either direction, or for SETTLE_S."""
    with trio.move_on_after(SETTLE_S):
        while peer.ended is None and (peer.is_asking or peer.is_answering):
            await trio.sleep(_LOOK_S)
