"""A node of the hash table: kademlia's server, which looks up, stores and hands on nothing but verified records.

Runs in an asyncio loop; `edges/dht` has one in a thread of its own. A lookup asks, nearest first, a bounded number of
nodes; then everybody near who answered is asked for the record, and the newest valid one counts. It is never voted.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kademlia.crawling import SpiderCrawl
from kademlia.network import Server
from kademlia.node import Node

from bitdustfs.core import record as records
from bitdustfs.core.datagram import Answer, Contact, Find, Found, Ping, Store, Stored
from bitdustfs.core.record import Record, newer
from bitdustfs.core.record_table import RecordTable
from bitdustfs.edges.dht_protocol import Endpoint, Protocol, may_name
from bitdustfs.edges.dht_rules import Clock, Rules
from bitdustfs.edges.dht_table import Peer
from bitdustfs.edges.tcp import join_address, split_address
from bitdustfs.errors import BadFormat
from bitdustfs.model import RecordId

_REPAIRED = 4  # nodes near a record that did not have it, and get it from who looked for it


class Crawl(SpiderCrawl):
    """One walk towards an id. Bounded whatever it is told on the way."""

    def __init__(self, protocol: Protocol, target: bytes, start: Sequence[Peer], rules: Rules) -> None:
        super().__init__(protocol, Node(target), [], rules.neighbours, rules.asked_at_once)
        self._rules = rules
        self._open: list[tuple[int, int, Peer]] = []  # by distance: who was heard of and not asked
        self._heard: set[tuple[bytes, Endpoint]] = set()
        self._asked: Counter[str] = Counter()  # by network
        self._answered: dict[bytes, tuple[Peer, Answer]] = {}
        for peer in start:
            self._hear(peer)

    async def find(self) -> list[tuple[Peer, Answer]]:
        """Walk until the nearest that are known have answered. Returns those who did, nearest first."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while len(running) < self.alpha and (peer := self._next()) is not None:
                    running.add(asyncio.create_task(self._ask(peer)))
                if not running:
                    break
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
        return sorted(self._answered.values(), key=lambda each: self.node.distance_to(each[0]))

    def _next(self) -> Peer | None:
        """Whom to ask next: who is nearer than the nearest k that answered."""
        while self._open and sum(self._asked.values()) < self._rules.most_asked:
            distance, _order, peer = heapq.heappop(self._open)
            if distance > self._bound():
                return None
            prefix = self._rules.prefix(peer.ip)
            if peer.id not in self._answered and self._asked[prefix] < self._rules.lookup_prefix:
                self._asked[prefix] += 1
                return peer
        return None

    def _bound(self) -> int:
        distances = sorted(self.node.distance_to(peer) for peer, _answer in self._answered.values())
        return distances[self.ksize - 1] if len(distances) >= self.ksize else 1 << 160

    async def _ask(self, peer: Peer) -> None:
        got = await self.protocol.ask((peer.ip, peer.port), Find(self.node.id, False), peer.id)
        if got is None:
            return
        self._answered[got.id] = (peer, got)
        if isinstance(got.said, Found):
            for contact in got.said.contacts:
                if may_name(peer.address, contact.address):
                    self._hear(Peer.at(contact))

    def _hear(self, peer: Peer) -> None:
        mark = (peer.id, (peer.ip, peer.port))
        if mark not in self._heard and peer.id != self.protocol.source_node.id:
            self._heard.add(mark)
            heapq.heappush(self._open, (self.node.distance_to(peer), len(self._heard), peer))


class DhtNode(Server):
    """One node.

    Args:
        key: its own in the table; drawn from `secrets`, for nothing else.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        rules: Rules | None = None,
        *,
        wall_s: Clock = time.time,
        now_s: Clock = time.monotonic,
    ) -> None:
        self.rules = rules or Rules()
        self.kept = RecordTable(most=self.rules.records, most_per_source=self.rules.prefix_records)
        self._key = key
        self._wall_s = wall_s
        self._now_s = now_s
        self._lookups = asyncio.Semaphore(self.rules.lookups)
        self.protocol: Protocol = self._create_protocol()
        super().__init__(self.rules.neighbours, self.rules.asked_at_once, self.protocol.source_node.id, self.kept)
        self.protocol = self._create_protocol()

    def _create_protocol(self) -> Protocol:
        return Protocol(self._key, self.kept, self.rules, wall_s=self._wall_s, now_s=self._now_s)

    async def listen(self, port: int, interface: str = "0.0.0.0") -> None:
        """Bind the socket.

        Raises:
            OSError: it cannot be had.
        """
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setblocking(False)
            bound.bind((interface, port))
        except OSError:
            bound.close()
            raise
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self.protocol, sock=bound)

    @property
    def address(self) -> str:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return join_address(host, port)

    def contacts(self) -> list[Contact]:
        """Whom it knows, those it heard of longest ago first."""
        return [each.contact for each in self.protocol.router.peers()]

    async def bootstrap(self, addrs: Iterable[str]) -> int:
        """Ask who is at these addresses, ADDR:PORT in numbers, and then who is near us. Returns how many answered."""
        endpoints = [split_address(each) for each in addrs]
        answers = await asyncio.gather(*(self.protocol.ask(each, Ping()) for each in endpoints))
        if any(answers):
            await self._walk(self.node.id)
        return sum(each is not None for each in answers)

    async def find(self, record_id: RecordId) -> Record | None:
        """The newest valid record of this id that those near it show, or that is here."""
        async with self._lookups:
            near = (await self._walk(record_id))[: self.ksize]
            answers = await asyncio.gather(*(self._fetch(peer, record_id) for peer, _answer in near))
            now_s = int(self._wall_s())
            best = self.kept.get(record_id, now_s)
            for found in answers:
                best = newer(best, found, now_s=now_s)
            if best is not None:
                lacking = [each for each, found in zip(near, answers, strict=True) if found != best][:_REPAIRED]
                await asyncio.gather(*(self._store(peer, given.token, best) for peer, given in lacking))
            return best

    async def store(self, record: Record, also: Iterable[str] = ()) -> int:
        """Give a record to those near its id, and keep it.

        Args:
            also: ADDR:PORT, in numbers, of some who get it too.
        Returns:
            how many others keep it.
        """
        async with self._lookups:
            self.kept.put(record, "", int(self._wall_s()))
            near = (await self._walk(record.id))[: self.ksize]
            self.kept.touch(record.id, int(self._wall_s()))
            there = {(peer.ip, peer.port) for peer, _given in near}
            others = {split_address(each) for each in also} - there
            kept = await asyncio.gather(
                *(self._store(peer, given.token, record) for peer, given in near),
                *(self._bring(endpoint, record) for endpoint in others),
            )
            return sum(kept)

    async def refresh(self) -> None:
        """Look after the table and hand on what nobody brought of late. Never returns."""
        while True:
            await asyncio.sleep(self.rules.refresh_s * (0.75 + random.SystemRandom().random() / 2))
            for bucket in list(self.protocol.router.buckets):
                await self._walk(random.SystemRandom().randint(*bucket.range).to_bytes(20, "big"))
            self.kept.sweep(int(self._wall_s()))
            due = self.kept.stored_before(int(self._wall_s() - self.rules.refresh_s))
            for record in due[: self.rules.handed_on]:
                await self.store(record)

    async def _walk(self, target: bytes) -> list[tuple[Peer, Answer]]:
        start = self.protocol.router.find_neighbors(Node(target))
        return await Crawl(self.protocol, target, start, self.rules).find()

    async def _fetch(self, peer: Peer, record_id: RecordId) -> Record | None:
        got = await self.protocol.ask((peer.ip, peer.port), Find(record_id, True), peer.id)
        if got is None or not isinstance(got.said, Found) or not got.said.record:
            return None
        try:
            found = records.parse(got.said.record)
        except BadFormat:
            self.protocol.counts["forged"] += 1
            return None
        if found.id != record_id:
            self.protocol.counts["forged"] += 1
            return None
        return found

    async def _bring(self, endpoint: Endpoint, record: Record) -> bool:
        """Store a record at a node of which only the address is known."""
        got = await self.protocol.ask(endpoint, Ping())
        return got is not None and await self._store(Peer(got.id, *endpoint), got.token, record)

    async def _store(self, peer: Peer, given: bytes, record: Record) -> bool:
        got = await self.protocol.ask((peer.ip, peer.port), Store(given, record.raw), peer.id)
        return got is not None and isinstance(got.said, Stored) and got.said.is_kept

    # --- what is not to be used -----------------------------------------------------------------------------------

    def save_state(self, fname: Any) -> NoReturn:
        """Kademlia's own writes a pickle."""
        raise NotImplementedError

    load_state = get = set = set_digest = refresh_table = save_state  # votes, stores unverified, or reads a pickle
