"""An errand: one question to one node, over a connection made for it."""

from __future__ import annotations

from typing import TypeVar

import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import PeerError
from bitdustfs.model import NodeId
from bitdustfs.ports import Dialer

A = TypeVar("A", bound=wire.Answer)


async def ask_once(
    dialer: Dialer,
    identity: Identity,
    node: NodeId,
    address: str,
    request: wire.Request,
    answer: type[A],
    body: bytes = b"",
) -> tuple[A, bytes | memoryview]:
    """Connect, ask, hang up. The caller sets the deadline.

    Returns:
        The answer and its body; nothing in them is checked.
    Raises:
        PeerGone, WrongPeer, ProtocolViolation. PeerRefused, PeerError: the node says no.
        BadRequest: the address is none.
    """
    peer = Peer(await dialer.dial(address, node), identity)
    await peer.greet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        try:
            got = await peer.request(request, answer, body)
            failed = None
        except PeerError as error:  # raised outside the nursery, which would wrap it in a group
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return got
