"""Suppliers in memory: what the engine needs of `engine.suppliers.Suppliers`, without connections.

Faults are data: sets of suppliers that are gone, silent, full, or change what they return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from math import inf

import trio

from bitdustfs.core import fragment, wire
from bitdustfs.core.contract import Contract
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.pacer import Pacer
from bitdustfs.errors import PeerFull, PeerGone, PeerLacks
from bitdustfs.model import LEAF_BYTES, FragmentName, NodeId, OwnerId, Root, Supplier, SupplierNo
from bitdustfs.ports import Leaves
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.swarm import make_identity

_ROOM = (1 << 40, 1 << 30)


class MemorySuppliers:
    """`count` suppliers with numbers 1 … count.

    Args:
        stored: where their fragments lie; for tests that need them longer than this process lives.
    """

    def __init__(
        self,
        count: int,
        *,
        delay_s: float = 0.01,
        stored: MutableMapping[tuple[SupplierNo, FragmentName], bytes] | None = None,
    ) -> None:
        self.count = count
        self.delay_s = delay_s
        self.stored = {} if stored is None else stored
        self.gone: set[int] = set()  # no connection
        self.silent: set[int] = set()  # connected, never answer
        self.full: set[int] = set()
        self.flipping: set[int] = set()  # return one wrong bit
        self.rotten: set[int] = set()  # the same, in all leaves but the first
        self.halving: set[int] = set()  # return half of what was asked for
        self.swapping: set[int] = set()  # return another fragment
        self.forgetting: set[int] = set()  # say that they do not have it
        self.headless: set[int] = set()  # take no head
        self.heads: dict[SupplierNo, bytes] = {}
        self.head_version = 0
        self.goes_over: dict[SupplierNo, int] = {}
        self.on_connected: list[Callable[[SupplierNo], None]] = []
        self.pacer = Pacer()
        self.clerk = Clerk(make_identity("customer"), None, crunch=None, wall=FakeWall())  # of no contract
        self.gets: list[tuple[int, int]] = []  # (supplier, bytes returned)
        self.puts = 0
        self.doubted: list[int] = []
        self._asked: dict[int, list[float]] = {}  # supplier -> since when each answer is due

    def rows(self) -> list[Supplier]:
        """Rows for a catalog, with number 0: it takes new ones, from 1 on."""
        return [
            Supplier(
                supplier=SupplierNo(0),
                node=NodeId(bytes([number]) * 32),
                owner=OwnerId(bytes([100 + number]) * 32),
                label=f"s{number}",
                address=f"192.0.{number}.1:4878",
                contract=b"",
                capacity_bytes=_ROOM[0],
                capacity_fragments=_ROOM[1],
                used_bytes=0,
                used_fragments=0,
            )
            for number in range(1, self.count + 1)
        ]

    def online(self) -> tuple[SupplierNo, ...]:
        return tuple(SupplierNo(n) for n in range(1, self.count + 1) if n not in self.gone)

    def quiet_s(self, supplier: SupplierNo) -> float:
        asked = self._asked.get(supplier)
        return trio.current_time() - asked[0] if asked else 0.0

    def way_s(self, supplier: SupplierNo) -> float:
        return 0.0

    def is_held_back(self) -> bool:
        return False

    def expected(self) -> frozenset[SupplierNo]:
        return frozenset()

    async def wait_for_expected(self) -> None:
        await trio.lowlevel.checkpoint()

    def take_speeds(self) -> Mapping[SupplierNo, float]:
        return {}

    def pushed_at(self, supplier: SupplierNo) -> float:
        return -inf

    def says(self, supplier: SupplierNo) -> int:
        return max(self.head_version, self.goes_over.get(supplier, 0))

    def doubt(self, supplier: SupplierNo) -> None:
        self.doubted.append(supplier)

    def reconnect(self) -> None:
        """Nobody is silent any more, and nothing is owed: connections are new."""
        self.silent = set()
        self._asked.clear()

    def binding(self, owner: OwnerId) -> Sequence[Contract]:
        return self.clerk.binding(owner)

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]:
        return {SupplierNo(n): (0, 0) if n in self.full else _ROOM for n in range(1, self.count + 1)}

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        await self._answer(supplier)
        if supplier in self.full:
            raise PeerFull(peer=f"s{supplier}", what="no room")
        if fragment.root(body) != root:
            raise AssertionError("a fragment was sent that does not have its root")
        self.puts += 1
        self.stored[supplier, name] = bytes(body)

    async def get(self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        asked = self._asked.setdefault(supplier, [])
        asked.append(trio.current_time())
        await self._answer(supplier)
        self._asked[supplier] = []
        content = self.stored.get((supplier, name))
        if content is None or supplier in self.forgetting:
            raise PeerLacks(peer=f"s{supplier}", what="this fragment")
        if supplier in self.swapping:
            content = next(
                (c for (s, n), c in self.stored.items() if s == supplier and n != name and len(c) == len(content)),
                bytes(len(content)),
            )
        leaves = bytearray(content[first * LEAF_BYTES : (first + count) * LEAF_BYTES])
        if supplier in self.flipping:
            leaves[len(leaves) // 2] ^= 1
        if supplier in self.rotten and first + count > 1:
            leaves[-1] ^= 1
        if supplier in self.halving:
            del leaves[len(leaves) // 2 :]
        self.gets.append((supplier, len(leaves)))
        return Leaves(len(content), fragment.leaf_hashes(content) if hashes else b"", bytes(leaves))

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        await self._answer(supplier)
        for name in names:
            self.stored.pop((supplier, name), None)

    def revoked_in(self) -> Mapping[SupplierNo, int]:
        return {}

    async def head(self, supplier: SupplierNo) -> bytes:
        await self._answer(supplier)
        return self.heads.get(supplier, b"")

    async def hold(self, supplier: SupplierNo, request: wire.Hold) -> wire.Holds:
        """Let whoever asks hold it."""
        await self._answer(supplier)
        if request.waits:
            await trio.sleep(60)
        return wire.Holds(is_yours=True, node=b"", left_s=request.lease_s, wished_by=b"")

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None:
        """Take it; whether it may be taken is the business of `engine.keeper`."""
        await self._answer(supplier)
        if supplier in self.headless:
            raise PeerFull(peer=f"s{supplier}", what="no room")
        self.heads[supplier] = head

    async def _answer(self, supplier: SupplierNo) -> None:
        await trio.sleep(self.delay_s)
        if supplier in self.gone:
            raise PeerGone(peer=f"s{supplier}", what="no connection")
        if supplier in self.silent:
            await trio.sleep_forever()
