"""Suppliers in one nursery: real keepers, contracts and connections over a network and shelves in memory.

async with trio.open_nursery() as nursery:
    swarm = Swarm(nursery, suppliers=5)
    rows = await swarm.hire_all(size)
    suppliers = swarm.customer_side(rows)     # engine.suppliers.Suppliers
    nursery.start_soon(suppliers.run)
"""

from __future__ import annotations

from dataclasses import replace

import trio
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core.certificate import Identity, certify
from bitdustfs.core.keys import public_bytes
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.model import NodeId, OwnerId, Role, Supplier, SupplierNo
from bitdustfs.testing.byzantine import Byzantine, Conduct
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import Break, Line, MemoryListener, MemoryNetwork
from bitdustfs.testing.shelf import BentShelf, MemoryContracts, MemoryShelf, MuteHandler

MOST_NAMES = 1 << 30


def make_identity(name: str, *, owner: str = "", role: Role = Role.WRITER, epoch: int = 1) -> Identity:
    """An identity that is always the same for the same names. `owner` defaults to an owner of that name."""
    node_key = _key("node " + name)
    owner_key = _key("owner " + (owner or name))
    return Identity(node_key, certify(owner_key, public_bytes(node_key), role, epoch=epoch))


class SupplierNode:
    """One supplier: what is kept over a restart, and the process that serves while `is_up`.

    Set `conduct.tricks` (testing.byzantine), `shelf.bend` to one of testing.shelf's lies, or `mute.is_mute`.
    """

    def __init__(
        self,
        number: int,
        network: MemoryNetwork,
        nursery: trio.Nursery,
        wall: FakeWall,
        *,
        identity: Identity | None = None,
    ) -> None:
        self.identity = identity or make_identity(f"supplier {number}")
        self.address = f"s{number}:7000"
        self._number = number
        self.memory_shelf = MemoryShelf()
        self.shelf = BentShelf(self.memory_shelf)
        self.contracts = MemoryContracts()
        self.conduct = Conduct()
        self.allowed: dict[OwnerId, int] = {}
        self._network = network
        self._nursery = nursery
        self._wall = wall
        self._scope: trio.CancelScope | None = None
        self.start()

    @property
    def node(self) -> NodeId:
        return self.identity.node

    @property
    def is_up(self) -> bool:
        return self._scope is not None

    def start(self) -> None:
        """Start the process again, with the shelf and the contracts that it had."""
        assert self._scope is None, "it runs"
        self.keeper = Keeper(
            self.identity, self.shelf, self.contracts, allowed=self.allowed, crunch=InlineCrunch(), wall=self._wall
        )
        self.mute = MuteHandler(Byzantine(self.keeper, self.conduct))
        self._scope = trio.CancelScope()
        self._listener = self._network.listen(self.node, self.address)
        self._nursery.start_soon(self._serve, self._scope, self._listener, self.mute)

    def kill(self) -> None:
        """End the process as `kill -9` does: connections break."""
        assert self._scope is not None, "it does not run"
        self._scope.cancel()
        self._scope = None
        self._network.stop_listening(self._listener)  # at once: it may be started again before its tasks have ended
        self._network.break_links(self.node)

    def wipe(self) -> None:
        """Lose every fragment, and know it: what is asked for is denied."""
        for owner in self.contracts.contracts():
            names = self.memory_shelf.names(owner, b"", MOST_NAMES)
            self.conduct.dropped |= {(bytes(owner), bytes(name)) for name, _length in names}

    async def _serve(self, scope: trio.CancelScope, listener: MemoryListener, handler: Handler) -> None:
        with scope:
            reception = Reception(
                self.identity, handler, knows=self.keeper.has_contract, entropy=SeededEntropy(self._number)
            )
            try:
                await reception.run(listener)
            finally:
                await listener.aclose()


class Swarm:
    """A customer's identity and some suppliers that allow him `allowed_bytes` each."""

    def __init__(
        self,
        nursery: trio.Nursery,
        suppliers: int,
        *,
        allowed_bytes: int = 1 << 40,
        line: Line | None = None,
        seed: int = 0,
    ) -> None:
        self.network = MemoryNetwork(line)
        self.wall = FakeWall()
        self.identity = make_identity("customer")
        self.entropy = SeededEntropy(seed)
        self.memory = Memory()  # of the customer's connections
        self.suppliers = [SupplierNode(n, self.network, nursery, self.wall) for n in range(1, suppliers + 1)]
        for supplier in self.suppliers:
            supplier.allowed[self.identity.owner] = allowed_bytes

    async def hire_all(self, size_bytes: int = 1 << 30) -> list[Supplier]:
        """Hire all of them; returns their rows, numbered from 1."""
        side = self.customer_side(())
        rows = []
        for number, supplier in enumerate(self.suppliers, start=1):
            row = await side.hire(supplier.address, supplier.node, size_bytes, label=f"s{number}")
            rows.append(replace(row, supplier=SupplierNo(number)))
        return rows

    def customer_side(self, rows: list[Supplier] | tuple[()], identity: Identity | None = None) -> Suppliers:
        """The customer's Suppliers, or those of another of his nodes; the caller runs it."""
        who = identity or self.identity
        return Suppliers(
            who, self.network.dialer(who.node), rows, entropy=self.entropy, wall=self.wall, memory=self.memory
        )

    def cut(self, number: int) -> None:
        """Cut supplier `number` (from 1) off."""
        self.network.apply(Break.CUT, self.suppliers[number - 1].node)

    def silence(self, number: int) -> None:
        """Let all bytes from and to supplier `number` vanish."""
        self.network.apply(Break.SILENCE, self.suppliers[number - 1].node)

    def heal(self, number: int) -> None:
        """End what `cut` or `silence` began."""
        self.network.apply(Break.HEAL, self.suppliers[number - 1].node)


async def connect(
    nursery: trio.Nursery, network: MemoryNetwork, identity: Identity, address: str, expected: NodeId
) -> Peer:
    """Dial, greet and run a peer."""
    peer = Peer(await network.dialer(identity.node).dial(address, expected), identity)
    await peer.greet()
    nursery.start_soon(peer.run)
    return peer


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(blake3(name.encode()).digest())
