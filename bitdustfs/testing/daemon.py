"""A process that both keeps and stores, as `mount` and `serve` assemble it, over a network in memory.

anna = Daemon("anna", network, nursery, wall)              # others can dial it at "anna:1"
boris = Daemon("boris", network, nursery, wall, listens=False)   # behind a firewall
boris.dial[anna.node] = [anna.address]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from bitdustfs.engine.accords import Accords
from bitdustfs.engine.caller import Caller
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.partners import Partners
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.model import NodeId, OwnerId, Supplier, SupplierNo
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import MemoryListener, MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import make_identity


class Daemon:
    """One node. Shelf, contracts, rows of suppliers and addresses to dial stay over `kill` and `start`."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        nursery: trio.Nursery,
        wall: FakeWall,
        *,
        listens: bool = True,
        seed: int = 0,
    ) -> None:
        self.identity = make_identity(name)
        self.address = f"{name}:1" if listens else ""
        self.shelf = MemoryShelf()
        self.contracts = MemoryContracts()
        self.allowed: dict[OwnerId, int] = {}
        self.dial: dict[NodeId, list[str]] = {}
        self.rows: list[Supplier] = []
        self._name = name
        self._network = network
        self._nursery = nursery
        self._wall = wall
        self._entropy = SeededEntropy(seed)
        self._scope: trio.CancelScope | None = None
        self.start()

    @property
    def node(self) -> NodeId:
        return self.identity.node

    @property
    def owner(self) -> OwnerId:
        return self.identity.owner

    def start(self) -> None:
        """Start the process, with what it kept."""
        assert self._scope is None, "it runs"
        self.keeper = Keeper(
            self.identity, self.shelf, self.contracts, allowed=self.allowed, crunch=InlineCrunch(), wall=self._wall
        )
        self.connections = Connections(self.node)
        self.reception = Reception(
            self.identity,
            self.keeper,
            knows=lambda owner: self.suppliers.knows(owner) or self.keeper.has_contract(owner),
            on_peer=lambda peer: self.suppliers.adopt(peer),
            entropy=self._entropy,
            connections=self.connections,
        )
        listener = self._listener = self._network.listen(self.node, self.address) if self.address else None
        caller = Caller(
            self.identity,
            self._network.dialer(self.node),
            handler=self.keeper,
            connections=self.connections,
            door=partial(self.reception.door, listener) if listener is not None else None,
        )
        self.clerk = self.keeper.clerk
        self.suppliers = Suppliers(
            self.identity,
            caller.dialer,
            self.rows,
            entropy=self._entropy,
            wall=self._wall,
            caller=caller,
            clerk=self.clerk,
        )
        self.clerk.used_there = self.suppliers.used
        self.accords = Accords(self.clerk, self.connections)
        partners = Partners(
            caller,
            self._entropy,
            lambda: {node: at for node, at in self.dial.items() if not self.suppliers.dials(node)},
            on_peer=self.suppliers.adopt,
        )
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run, self._scope, listener, partners)

    def kill(self) -> None:
        """End it as `kill -9` does: connections break."""
        assert self._scope is not None, "it does not run"
        self._scope.cancel()
        self._scope = None
        self._network.break_links(self.node)
        if self._listener is not None:
            self._network.stop_listening(self._listener)

    async def hire(self, other: Daemon, size_bytes: int, *, address: str | None = None) -> Supplier:
        """Hire another one, which must allow it, and note it."""
        row = await self.suppliers.hire(other.address if address is None else address, other.node, size_bytes)
        self.note(row)
        return self.rows[-1]

    def note(self, row: Supplier) -> None:
        """Take over a supplier's row, as the catalog does."""
        row = replace(row, supplier=row.supplier or SupplierNo(len(self.rows) + 1))
        self.rows = [*(each for each in self.rows if each.node != row.node), row]
        self.suppliers.add(row)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that changes with suppliers or connections."""
        while not condition():
            await trio.sleep(0.05)

    async def _run(self, scope: trio.CancelScope, listener: MemoryListener | None, partners: Partners) -> None:
        with scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.suppliers.run)
                    nursery.start_soon(partners.run)
                    nursery.start_soon(self.accords.run)
                    nursery.start_soon(self.keeper.run)
                    if listener is not None:
                        nursery.start_soon(self.reception.run, listener)
            finally:
                if listener is not None:
                    await listener.aclose()
