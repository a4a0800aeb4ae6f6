"""An errand: one conversation with one node, over a connection made for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import BitdustError
from bitdustfs.model import NodeId
from bitdustfs.ports import Dialer

A = TypeVar("A", bound=wire.Answer)
T = TypeVar("T")


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
    return await converse(peer, lambda: peer.request(request, answer, body))


async def converse(peer: Peer, talk: Callable[[], Awaitable[T]]) -> T:
    """Serve a connection for as long as a conversation takes, then end it. Raises and returns what that does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        try:
            came, failed = await talk(), None
        except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return came
