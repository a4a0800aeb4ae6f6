"""HELLO: the first message of each side, and when it is good. Nothing counts before it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from bitdustfs.core import certificate, wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.framing import Frame
from bitdustfs.errors import BadFormat, ProtocolViolation
from bitdustfs.model import NodeId

SOFTWARE: Final = "bitdustfs 0.1"


def make_hello(identity: Identity, features: Collection[str] = ()) -> bytes:
    """The whole frame that a node says first."""
    return wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, identity.certificate.raw, tuple(features), SOFTWARE))


def check_hello(frame: Frame, node: NodeId, peer: str) -> tuple[Certificate, frozenset[str]]:
    """Return the verified certificate of the node at the other end, and what it offers.

    Args:
        node: who it is, proven by its key.
        peer: how errors name it.
    Raises:
        ProtocolViolation: it is no HELLO, of another protocol, or the certificate is not good or another node's.
    """
    hello = frame.message
    if not isinstance(hello, wire.Hello) or frame.id != 0:
        raise ProtocolViolation(peer=peer, what="its first message is no HELLO")
    if hello.version != wire.PROTOCOL_VERSION:
        what = f"it speaks version {hello.version} of the protocol, not {wire.PROTOCOL_VERSION}"
        raise ProtocolViolation(peer=peer, what=what)
    try:
        found = certificate.parse(hello.certificate)
    except BadFormat as bad:
        raise ProtocolViolation(peer=peer, what=str(bad)) from bad
    if found.node != node:
        raise ProtocolViolation(peer=peer, what="its certificate is another node's")
    return found, frozenset(hello.features)
