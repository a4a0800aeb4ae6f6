"""Suppliers without connections: real keepers that are called directly, so that a year passes in a minute.

`CalledSuppliers` stands where `engine.suppliers.Suppliers` does. What that learns from connections that come and go,
it learns from a ping every `ping_s`, and from requests that fail. Each supplier has a line with latency and speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TypeVar, cast

import trio

from bitdustfs.core import wire
from bitdustfs.core.agreement import Wish
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract, fragments_for
from bitdustfs.core.fragment import HASH_BYTES, leaf_count
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.handler import error_of
from bitdustfs.engine.hiring import hire
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import PeerError, PeerFull, PeerGone, ProtocolViolation
from bitdustfs.model import LEAF_BYTES, FragmentName, NodeId, OwnerId, Root, Standing, Supplier, SupplierNo
from bitdustfs.ports import Leaves, Wall
from bitdustfs.testing.byzantine import Byzantine, Conduct
from bitdustfs.testing.clock import FakeWall, InstantCrunch
from bitdustfs.testing.network import Line
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import MOST_NAMES, make_identity

A = TypeVar("A", bound=wire.Answer)


class CalledNode:
    """One supplier. `is_up`: whether its machine is on and reachable."""

    def __init__(self, number: int, wall: Wall, *, line: Line | None = None) -> None:
        self.identity = make_identity(f"supplier {number}")
        self.address = f"10.0.{number}.1:4878"
        self.label = f"s{number}"
        self.line = line or Line(latency_s=0.02)
        self.is_up = True
        self.shelf = MemoryShelf()
        self.contracts = MemoryContracts()
        self.conduct = Conduct()
        self.allowed: dict[OwnerId, int] = {}
        self.keeper = Keeper(
            self.identity, self.shelf, self.contracts, allowed=self.allowed, crunch=InstantCrunch(), wall=wall
        )
        self.handler = Byzantine(self.keeper, self.conduct)

    @property
    def node(self) -> NodeId:
        return self.identity.node

    def wipe(self) -> None:
        """Lose every fragment, and know it: what is asked for is denied."""
        for owner in self.contracts.contracts():
            names = self.shelf.names(owner, b"", MOST_NAMES)
            self.conduct.dropped |= {(bytes(owner), bytes(name)) for name, _length in names}


class CalledPeer:
    """What of `engine.peer.Peer` is needed to ask one node."""

    def __init__(self, world: Reach, caller: Identity, there: CalledNode) -> None:
        self._world = world
        self._caller = caller.certificate
        self._there = there
        self.node = there.node
        self.owner = there.identity.owner
        self.label = there.label

    async def run(self) -> None:
        await trio.sleep_forever()

    async def request(
        self, request: wire.Request, answer: type[A], body: bytes | memoryview = b""
    ) -> tuple[A, bytes | memoryview]:
        """Ask it. Raises like `Peer.request`."""
        there = self._there
        await self._travel(len(body))
        refusal = there.handler.admit(self._caller, request)
        if refusal is not None:
            raise error_of(refusal, self.label, self._caller)
        try:
            told, parts = await there.handler.answer(self._caller, request, body)
        finally:
            there.handler.forget(self._caller, request)
        if isinstance(told, wire.Refusal):
            raise error_of(told, self.label, self._caller)
        if not isinstance(told, answer):
            raise ProtocolViolation(peer=self.label, what="another answer than was due")
        content = b"".join(parts)
        await self._travel(len(content))
        return told, content

    async def ping(self) -> wire.Status:
        """Ask for the room; takes no time. Raises like `request`."""
        self._check()
        told, _ = await self._there.handler.answer(self._caller, wire.Stat(), b"")
        if not isinstance(told, wire.Status):
            raise PeerGone(peer=self.label, what="it does not say what room it has")
        return told

    def takes_s(self, leaves: int) -> float:
        """How long the line takes for an answer of so many."""
        return 2 * self._there.line.latency_s + leaves * (LEAF_BYTES + HASH_BYTES) / self._there.line.bytes_per_s

    async def _travel(self, count: int) -> None:
        self._check()
        line = self._there.line
        await trio.sleep(line.latency_s + count / line.bytes_per_s)
        self._check()

    def _check(self) -> None:
        if not self._there.is_up or self._world.is_cut:
            raise PeerGone(peer=self.label, what="nobody answers")


class Reach:
    """Whether the customer's own line works."""

    def __init__(self) -> None:
        self.is_cut = False


class CalledSuppliers:
    """The hired suppliers of one volume, as the engine uses them.

    Args:
        ping_s: how often each is asked whether it is there.
    """

    def __init__(
        self,
        identity: Identity,
        rows: Iterable[Supplier],
        nodes: Iterable[CalledNode],
        reach: Reach,
        *,
        ping_s: float,
    ) -> None:
        self._identity = identity
        self.clerk = Clerk(identity, None, crunch=None, wall=FakeWall())
        self._rows = {row.supplier: row for row in rows}
        self._peers = {node.node: CalledPeer(reach, identity, node) for node in nodes}
        self._ping_s = ping_s
        self._free: dict[SupplierNo, tuple[int, int]] = {}  # of those that are online
        self._asked: dict[SupplierNo, list[float]] = {}  # when quick answers are due
        self._changed = trio.Event()
        self._nudged = trio.Event()
        self.pacer = Pacer()
        self.head_version = 0
        self.goes_over: dict[SupplierNo, int] = {}
        self.on_lost: Callable[[SupplierNo], None] = lambda _supplier: None  # nobody scrubs here
        self.on_connected: list[Callable[[SupplierNo], None]] = []
        self.on_change: Callable[[], None] = lambda: None
        self.on_address: Callable[[SupplierNo, str], None] = lambda _supplier, _address: None  # nobody moves
        self.sent_bytes = 0  # of fragments
        self.sent_fragments = 0
        self.got_bytes = 0  # of leaves and hash lists

    async def run(self) -> None:
        """Ping until cancelled: at once, after half of `ping_s`, and then each `ping_s`."""
        due = trio.current_time() - self._ping_s / 2
        while True:
            due = max(due + self._ping_s, trio.current_time())
            self._nudged = trio.Event()
            for supplier in tuple(self._rows):
                await self._ping(supplier)
            with trio.move_on_at(due):
                await self._nudged.wait()

    def binding(self, owner: OwnerId) -> Sequence[Contract]:
        return self.clerk.binding(owner)

    def add(self, row: Supplier) -> None:
        self._rows[row.supplier] = row

    def online(self) -> tuple[SupplierNo, ...]:
        return tuple(sorted(self._free))

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]:
        return dict(self._free)

    def quiet_s(self, supplier: SupplierNo) -> float:
        asked = self._asked.get(supplier)
        return max(0.0, trio.current_time() - asked[0]) if asked else 0.0

    def take_speeds(self) -> Mapping[SupplierNo, float]:
        return {}

    def way_s(self, supplier: SupplierNo) -> float:
        return 0.0

    def is_held_back(self) -> bool:
        return False

    def expected(self) -> frozenset[SupplierNo]:
        return frozenset()

    async def wait_for_expected(self) -> None:
        await trio.lowlevel.checkpoint()

    def pushed_at(self, _supplier: SupplierNo) -> float:
        return -inf

    def says(self, _supplier: SupplierNo) -> int:
        return self.head_version

    def doubt(self, _supplier: SupplierNo) -> None:
        return

    def nudge(self) -> None:
        self._nudged.set()

    def revoked_in(self) -> Mapping[SupplierNo, int]:
        return {}

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        epoch = self._identity.certificate.epoch
        try:
            await self._ask(supplier, wire.Put(name, root, len(body), epoch, self.head_version), wire.Done, body)
        except PeerFull:
            self._free[supplier] = (0, 0)
            raise
        self.sent_bytes += len(body)
        self.sent_fragments += 1

    async def get(self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        asked = self._asked.setdefault(supplier, [])
        asked.append(trio.current_time() + self._peers[self._rows[supplier].node].takes_s(count))
        try:
            found, body = await self._ask(supplier, wire.Get(name, first, count, hashes), wire.Found)
        finally:
            asked.pop(0)
        self.got_bytes += len(body)
        list_bytes = HASH_BYTES * leaf_count(found.length) if hashes else 0
        start, end = (min(at * LEAF_BYTES, found.length) for at in (first, first + count))
        if found.hash_bytes != list_bytes or len(body) != list_bytes + end - start:
            raise ProtocolViolation(peer=f"s{supplier}", what="an answer that does not have the length it says")
        return Leaves(found.length, bytes(body[:list_bytes]), body[list_bytes:])

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        epoch = self._identity.certificate.epoch
        await self._ask(supplier, wire.Delete(tuple(names), epoch, self.head_version), wire.Deleted)

    async def names(
        self, supplier: SupplierNo, after: bytes, limit: int = wire.MAX_NAMES
    ) -> Sequence[tuple[FragmentName, int]]:
        listed, _ = await self._ask(supplier, wire.List(after, limit), wire.Listed)
        return tuple((FragmentName(name), length) for name, length in listed.entries)

    async def head(self, supplier: SupplierNo) -> bytes:
        held, body = await self._ask(supplier, wire.GetHead(), wire.HeadIs)
        return bytes(body[: held.head_bytes])

    async def hold(self, supplier: SupplierNo, request: wire.Hold) -> wire.Holds:
        held, _ = await self._ask(supplier, request, wire.Holds)
        return held

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None:
        request = wire.PutHead(len(head), self._identity.certificate.epoch)
        await self._ask(supplier, request, wire.Done, head + links)

    async def hire(self, there: CalledNode, size_bytes: int, number: int, standing: Standing) -> Supplier:
        """Agree on a contract with a node; returns its row."""
        peer = cast(Peer, self._peers[there.node])
        signed = await hire(peer, self.clerk, Wish(needs_bytes=size_bytes, until_s=0))
        return Supplier(
            supplier=SupplierNo(number),
            node=there.node,
            owner=there.identity.owner,
            label=there.label,
            address=there.address,
            contract=signed.raw,
            capacity_bytes=size_bytes,
            capacity_fragments=fragments_for(size_bytes),
            used_bytes=0,
            used_fragments=0,
            standing=standing,
        )

    async def _ask(
        self, supplier: SupplierNo, request: wire.Request, answer: type[A], body: bytes | memoryview = b""
    ) -> tuple[A, bytes | memoryview]:
        try:
            return await self._peers[self._rows[supplier].node].request(request, answer, body)
        except PeerGone:
            self._note(supplier, None)
            raise

    async def _ping(self, supplier: SupplierNo) -> None:
        try:
            told = await self._peers[self._rows[supplier].node].ping()
        except PeerError:
            self._note(supplier, None)
            return
        free_bytes = min(told.quota_bytes - told.used_bytes, told.free_bytes)
        self._note(supplier, (max(0, free_bytes), max(0, told.quota_fragments - told.used_fragments)))

    def _note(self, supplier: SupplierNo, free: tuple[int, int] | None) -> None:
        was_online = supplier in self._free
        if free is None:
            self._free.pop(supplier, None)
        else:
            self._free[supplier] = free
        if was_online != (free is not None):
            if free is not None:
                for tell in self.on_connected:
                    tell(supplier)
            self._changed.set()
            self._changed = trio.Event()
        self.on_change()
