"""A process that both keeps and stores, as `mount` and `serve` assemble it, over a network in memory.

anna = Daemon("anna", network, nursery, wall)              # others can dial it at `anna.address`
boris = Daemon("boris", network, nursery, wall, listens=False)   # behind a firewall
boris.dial[anna.node] = [anna.address]
anna.move()                                                # its connections are dead, and it is elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.engine.accords import Accords
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.engine.caller import Caller
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.ledger import Ledger
from bitdustfs.engine.nearby import Nearby
from bitdustfs.engine.partners import Partners
from bitdustfs.engine.presence import Presence
from bitdustfs.engine.reaching import Reaching
from bitdustfs.engine.receipts import Receipts, Receiving
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.whereabouts import Informed, Whereabouts
from bitdustfs.model import NodeId, OwnerId, Supplier, SupplierNo
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.lan import MemoryAir, MemoryLan
from bitdustfs.testing.network import MemoryInterfaces, MemoryListener, MemoryNetwork
from bitdustfs.testing.shelf import MemoryAddresses, MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import make_identity


class Daemon:
    """One node. Shelf, contracts, rows of suppliers and what it knows of others stay over `kill` and `start`."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        nursery: trio.Nursery,
        wall: FakeWall,
        *,
        listens: bool = True,
        identity: Identity | None = None,
        seed: int = 0,
        air: MemoryAir | None = None,
    ) -> None:
        self.identity = identity or make_identity(name)
        self.number = "10." + ".".join(map(str, self.identity.node[:3]))  # of its only interface
        self.interfaces = MemoryInterfaces()
        self.addresses = MemoryAddresses()
        self._listens = listens
        self._air = air
        self.nearby: Nearby | None = None
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
    def address(self) -> str:
        """Where others can dial it; "": nowhere."""
        return f"{self.number}:7000" if self._listens else ""

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
        self.book = AddressBook(
            self.identity,
            self.addresses,
            self._wall,
            InlineCrunch(),
            keeps=lambda _node, owner: self.is_partner(owner),
        )
        self.keeper.endings.others_s = self.book.others_s
        self.whereabouts = Whereabouts(
            self.book, self.connections, is_partner=lambda node: self.is_partner(node.owner)
        )
        self.ledger = Ledger(self.contracts, crunch=InlineCrunch(), wall=self._wall)
        self.ledger.keeps = self.keeper.kept_bytes
        self.receipts = Receipts(
            self.identity,
            self.ledger,
            self.keeper.clerk,
            self.connections,
            self._entropy,
            revoked=self.keeper.refuse_revoked,
        )
        handler = self.reaching = Reaching(
            Informed(Receiving(self.keeper, self.receipts), self.whereabouts),
            self._network.dialer(self.node),
            self.connections,
            self.book,
            is_partner=lambda node: self.is_partner(node.owner),
        )
        acquaintances = Acquaintances(self.keeper.clerk.owner_of, self.book.owner_of)
        self.reception = Reception(
            self.identity,
            handler,
            knows=self.is_partner,
            on_peer=lambda peer: self.suppliers.adopt(peer),
            entropy=self._entropy,
            connections=self.connections,
            acquaintances=acquaintances,
        )
        self._listener = listener = self._network.listen(self.node, self.address) if self.address else None
        self._take_place()
        caller = Caller(
            self.identity,
            self._network.dialer(self.node),
            handler=handler,
            connections=self.connections,
            door=partial(self.reception.door, listener) if listener is not None else None,
            acquaintances=acquaintances,
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
        self.accords = Accords(self.clerk, self.connections, is_revoked=self.keeper.is_revoked)
        caller.whereabouts = self.whereabouts
        self.whereabouts.owner_of = self.suppliers.owner_of
        self.book.on_learnt.append(self.suppliers.learnt)
        partners = Partners(caller, self._entropy, self._wanted, on_peer=self.suppliers.adopt)

        def moved() -> None:
            self.suppliers.nudge()
            partners.nudge()
            if self.nearby is not None:
                self.nearby.moved()

        if self._air is not None:
            self.nearby = self._nearby(self._air, partners)
        self.presence = presence = Presence(
            self.book,
            self.whereabouts,
            self.connections,
            self.interfaces,
            listening=["0.0.0.0:7000"] if listener is not None else [],
            on_moved=moved,
        )
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run, self._scope, listener, partners, presence)

    def kill(self) -> None:
        """End it as `kill -9` does: connections break."""
        assert self._scope is not None, "it does not run"
        self._scope.cancel()
        self._scope = None
        self._network.break_links(self.node)
        if self._listener is not None:
            self._network.stop_listening(self._listener)

    def move(self, number: str = "", *, is_noticed: bool = True) -> None:
        """Take another address: what was connected is dead, and nobody is told but its own interfaces."""
        first, _, rest = self.number.partition(".")
        self.number = number or f"{int(first) + 1}.{rest}"
        if self._listener is not None:
            self._listener.move(self.address)
        self._network.strand(self.node)
        self._take_place()
        if is_noticed:
            self.interfaces.note()

    def is_partner(self, owner: OwnerId) -> bool:
        return self.suppliers.knows(owner) or self.keeper.is_partner(owner)

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

    def _take_place(self) -> None:
        self.interfaces.known = {"127.0.0.1": True, self.number: True}
        self._network.places[self.node] = f"{self.number}:40000"

    def _nearby(self, air: MemoryAir, partners: Partners) -> Nearby:
        def sought() -> set[NodeId]:
            return {*(row.node for row in self.rows), *(node for node, _owner in self.book.nodes()), *self.dial}

        return Nearby(
            MemoryLan(air),
            self.book,
            self.interfaces,
            self._entropy,
            self.node,
            listening=["0.0.0.0:7000"] if self._listens else [],
            sought=sought,
            is_missing=lambda: not sought() <= set(self.connections.nodes()),
            on_here=partners.nudge,
        )

    def _wanted(self) -> Mapping[NodeId, Sequence[str]]:
        known: dict[NodeId, Sequence[str]] = {
            node: () for node, owner in self.book.nodes() if self.is_partner(owner) and self.book.places(node)
        }
        return {node: at for node, at in {**known, **self.dial}.items() if not self.suppliers.dials(node)}

    async def _run(
        self, scope: trio.CancelScope, listener: MemoryListener | None, partners: Partners, presence: Presence
    ) -> None:
        with scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.suppliers.run)
                    services = (self.accords, self.keeper.endings, partners, self.book, self.whereabouts, presence)
                    for service in (*services, self.ledger, self.receipts):
                        nursery.start_soon(service.run)
                    if self.nearby is not None:
                        nursery.start_soon(self.nearby.run)
                    if listener is not None:
                        nursery.start_soon(self.reception.run, listener)
            finally:
                if listener is not None:
                    await listener.aclose()
