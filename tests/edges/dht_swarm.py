"""Nodes of the hash table for tests: real datagrams, each node at an address of its own on this machine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core.record import DAY_S, Record, sign_addresses
from bitdustfs.edges.dht_node import DhtNode
from bitdustfs.edges.dht_rules import Rules

NOW_S = 1_700_000_000
# All nodes of a test share one loop, which takes what has come before it looks at the time: slowness is no harm.
RULES = Rules(tries_s=(0.03, 0.06, 0.12), neighbours=8)


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def record(who: int, sequence: int = 1, expiry_s: int = NOW_S + DAY_S) -> Record:
    return sign_addresses(key(who), (f"192.0.2.{sequence % 250 + 1}:7000",), sequence=sequence, expiry_s=expiry_s)


class Lossy:
    """A transport that loses some of what is sent."""

    def __init__(self, transport: Any, loss: float, dice: random.Random) -> None:
        self._transport = transport
        self._loss = loss
        self._dice = dice

    def sendto(self, content: bytes, endpoint: Any) -> None:
        if self._dice.random() >= self._loss:
            self._transport.sendto(content, endpoint)

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())


async def started(number: int, *, rules: Rules = RULES, loss: float = 0.0, made: type[DhtNode] = DhtNode) -> DhtNode:
    """A node at 127.0.NUMBER.1."""
    node = made(key(1000 + number), rules, wall_s=lambda: NOW_S)
    await node.listen(0, f"127.0.{number}.1")
    if loss:
        node.protocol.transport = Lossy(node.transport, loss, random.Random(number))
    return node


async def joined(nodes: Sequence[DhtNode], through: DhtNode) -> None:
    """All get to know the others through one of them."""
    for node in nodes:
        if node is not through:
            await node.bootstrap([through.address])


@asynccontextmanager
async def swarm(count: int, *, rules: Rules = RULES, loss: float = 0.0) -> AsyncIterator[list[DhtNode]]:
    """So many nodes that know each other. No complaint of the loop is left unsaid."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    nodes = [await started(number, rules=rules, loss=loss) for number in range(1, count + 1)]
    try:
        await joined(nodes, nodes[0])
        yield nodes
    finally:
        for node in nodes:
            node.stop()
        await asyncio.sleep(0)
    assert complaints == []
    assert [node.protocol.counts["fault"] for node in nodes] == [0] * len(nodes)


def with_networks(rules: Rules = RULES) -> Rules:
    """Addresses of this machine count for their /24, as those of the internet do."""
    return replace(rules, keeps_private_apart=False)
