"""Names in a local network: which node is meant is understood by who knows the node's id, and by nobody else.

    name = hex of salt (8 bytes) || BLAKE3(salt || node id) in its own context (16 bytes)

The salt is new whenever the node comes into a network, so that a stranger who sees the same machine in two networks,
or twice in one, does not see by the name that it is the same. Who knows the id of a node tries it: one hash each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from bitdustfs.model import NodeId

SALT_BYTES: Final = 8
_MARK_BYTES = 16
_LABEL = "bitdustfs 1 name in a local network"


def name_of(node: NodeId, salt: bytes) -> str:
    """What a node calls itself: 48 lower-case hex digits."""
    assert len(salt) == SALT_BYTES
    return (salt + _mark(node, salt)).hex()


def whose(name: str, nodes: Iterable[NodeId]) -> NodeId | None:
    """Which of some nodes calls itself so. None: none of them, or it is no such name."""
    try:
        content = bytes.fromhex(name)
    except ValueError:
        return None
    if len(content) != SALT_BYTES + _MARK_BYTES:
        return None
    salt, mark = content[:SALT_BYTES], content[SALT_BYTES:]
    return next((node for node in nodes if _mark(node, salt) == mark), None)


def _mark(node: NodeId, salt: bytes) -> bytes:
    return blake3(salt + node, derive_key_context=_LABEL).digest(_MARK_BYTES)
