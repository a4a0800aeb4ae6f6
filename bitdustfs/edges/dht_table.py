"""Whom a node of the hash table knows: kademlia's routing table, with bounds.

Only nodes that proved their id and their address come in. Of one network at most two are in a bucket and ten in the
whole table: an address costs nothing where there are many. Nodes that are known long stay; newcomers wait until one
of them fails.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from bitdustfs.core.datagram import Contact
from bitdustfs.edges.dht_rules import Rules
from bitdustfs.edges.tcp import join_address, split_address

_LAST_ID = (1 << 160) - 1


class Peer(Node):
    """A node of the table, and what is noted of it."""

    def __init__(self, node_id: bytes, host: str, port: int) -> None:
        super().__init__(node_id, host, port)
        self.failures = 0  # questions in a row that it did not answer

    @classmethod
    def at(cls, contact: Contact) -> Peer:
        return cls(contact.id, *split_address(contact.address))

    @property
    def address(self) -> str:
        return join_address(self.ip, self.port)

    @property
    def contact(self) -> Contact:
        return Contact(self.id, self.address)


class Bucket(KBucket):
    """A bucket with few of one network, and with few who wait to come in."""

    def __init__(self, lower: int, upper: int, rules: Rules) -> None:
        super().__init__(lower, upper, rules.neighbours, replacementNodeFactor=1)
        self._rules = rules

    def split(self) -> tuple[Bucket, Bucket]:
        middle = (self.range[0] + self.range[1]) // 2
        halves = Bucket(self.range[0], middle, self._rules), Bucket(middle + 1, self.range[1], self._rules)
        for node in (*self.nodes.values(), *self.replacement_nodes.values()):
            halves[node.long_id > middle].add_node(node)
        return halves

    def is_crowded(self, node: Peer) -> bool:
        """Its network has its share of the bucket."""
        prefix = self._rules.prefix(node.ip)
        return self._count(prefix, node) >= self._rules.bucket_prefix

    def add_node(self, node: Peer) -> bool:
        """Take a node in, or let it wait. False: the bucket is full."""
        if self.is_crowded(node):
            return True
        return bool(super().add_node(node))

    def _count(self, prefix: str, but: Peer) -> int:
        others = [*self.nodes.values(), *self.replacement_nodes.values()]
        return sum(each.id != but.id and self._rules.prefix(each.ip) == prefix for each in others)


class Table(RoutingTable):
    """Buckets, of a bounded number."""

    def __init__(self, rules: Rules, node: Node) -> None:
        self._rules = rules
        super().__init__(None, rules.neighbours, node)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def flush(self) -> None:
        self.buckets = [Bucket(0, _LAST_ID, self._rules)]

    def peers(self) -> Iterator[Peer]:
        for bucket in self.buckets:
            yield from bucket.nodes.values()

    def get_bucket_for(self, node: Node) -> int:
        """Kademlia's own leaves out the last id of a bucket."""
        return next(index for index, bucket in enumerate(self.buckets) if node.long_id <= bucket.range[1])

    def known(self, node_id: bytes) -> Peer | None:
        found: Peer | None = self.buckets[self.get_bucket_for(Node(node_id))].nodes.get(node_id)
        return found

    def add_contact(self, node: Peer) -> Peer | None:
        """Take a node in that proved itself.

        Returns:
            One that should be asked whether it is still there, since its bucket is full.
        """
        if node.id == self.node.id or self._is_crowded(node):
            return None
        while True:
            index = self.get_bucket_for(node)
            bucket = self.buckets[index]
            if bucket.add_node(node):
                return None
            may_split = bucket.has_in_range(self.node) or bucket.depth() % 5 != 0  # section 4.2 of the paper
            if len(self.buckets) >= self._rules.buckets or not may_split:
                oldest: Peer = bucket.head()
                return oldest
            self.split_bucket(index)

    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[Peer]:
        """The k nearest ones of all: kademlia's own stops at the first k that it meets."""
        near = (each for each in self.peers() if exclude is None or not each.same_home_as(exclude))
        return heapq.nsmallest(k or self.ksize, near, key=node.distance_to)

    def _is_crowded(self, node: Peer) -> bool:
        prefix = self._rules.prefix(node.ip)
        same = sum(each.id != node.id and self._rules.prefix(each.ip) == prefix for each in self.peers())
        return bool(same >= self._rules.table_prefix)
