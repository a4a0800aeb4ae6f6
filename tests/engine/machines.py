"""Two machines of one owner in a world: who may write, who follows, and what each of them has."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.edges.catalog_beside import DiskWorkshop
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.claim import Claimed, Holds, claim
from bitdustfs.engine.node import Node
from bitdustfs.model import ROOT_INO, Code
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.network import Break
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import World
from tests.engine.recovered import recover

CODE = Code(3, 5)
WHOLE = Code(1, 5)  # nothing is safe before all suppliers have it
CONTENT = random.Random(9).randbytes(300_000)
LAPTOP = make_identity("customer")  # the first machine of every world
DESKTOP = make_identity("desktop", owner="customer")
ALL = frozenset(range(1, 6))
LEASE_S = 180  # three words of a holder
REAL_S = 60.0  # for a loaded disk to make something durable
SEAT, COPY = b"the first seat..", b"of a copied home"


class Machine:
    """A machine in a world, with its disk; many in one world, one after another or at the same time."""

    def __init__(self, world: World, path: Path, identity: Identity = LAPTOP, seat: bytes = SEAT) -> None:
        self.world = world
        self.path = path
        self.identity = identity
        self.seat = seat
        self.spool = MemorySpool()
        self.wall = FakeWall()
        self.takes_over = False
        self.only_reads = False

    def hire(self) -> None:
        """Give it a catalog that knows the suppliers and nothing else."""
        with closing(SqliteCatalog(self.path, create=True)) as catalog:
            for row in self.world.catalog.suppliers():
                catalog.put_supplier(row)
            catalog.commit()

    async def learn(self) -> None:
        """Give it the newest state that suppliers have."""
        await recover(self.world, self.path, self.identity, beside=True)

    @asynccontextmanager
    async def mounted(self, *, wait: bool = True) -> AsyncIterator[Node]:
        usual = self.world.options
        self.world.options = replace(
            usual, seat=self.seat, takes_over=self.takes_over, only_reads=self.only_reads, lease_s=LEASE_S
        )
        workshop = self.workshop()
        with closing(SqliteCatalog(self.path)) as self.catalog:
            machine = self.world.machine(
                self.catalog, self.spool, identity=self.identity, wall=self.wall, workshop=workshop, wait=wait
            )
            async with machine as self.node:
                self.world.options = usual
                yield self.node

    def workshop(self) -> DiskWorkshop:
        """Where it makes catalogs of others."""
        return DiskWorkshop(self.path, self.path.with_name(self.path.name + ".beside"))

    async def write(self, name: str, content: bytes) -> None:
        self.world.node, before = self.node, self.world.node
        try:
            await self.world.write(name, content)
        finally:
            self.world.node = before

    async def sync(self) -> str:
        report = await self.node.sync(_nothing, 60)
        return report["state"]

    def cut(self) -> None:
        self.world.swarm.network.apply(Break.CUT, self.identity.node)

    def heal(self) -> None:
        self.world.swarm.network.apply(Break.HEAL, self.identity.node)

    def shows(self, name: str) -> bool:
        return self.node.tree.lookup(ROOT_INO, name.encode()) is not None


async def _nothing(_step: object) -> None:
    return


@asynccontextmanager
async def two(directory: Path, code: Code = CODE) -> AsyncIterator[tuple[World, Machine, Machine]]:
    """A laptop that wrote a file and goes on, and a desktop with nothing."""
    async with World(code=code).hired() as world:
        laptop, desktop = Machine(world, directory / "laptop"), Machine(world, directory / "desktop", DESKTOP)
        laptop.hire()
        yield world, laptop, desktop


def lies(world: World, number: int) -> None:
    """Have a supplier say to everybody that another node holds the volume."""
    _answers_holds(world, number, lambda _caller: wire.Holds(False, b"n" * 32, left_s=600, wished_by=b""))


def makes_wishes_up(world: World, number: int) -> None:
    """Have a supplier say to everybody that another node wishes to write."""
    _answers_holds(world, number, lambda caller: wire.Holds(True, bytes(caller.node), 600, wished_by=b"n" * 32))


def _answers_holds(world: World, number: int, holds: Callable[[Certificate], wire.Holds]) -> None:
    """Have a supplier say that to who asks to hold the volume."""
    mute = world.swarm.suppliers[number - 1].mute
    true = mute.answer

    async def answer(
        caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if isinstance(request, wire.Hold):
            return holds(caller), ()
        return await true(caller, request, body)

    mute.answer = answer  # type: ignore[method-assign]


def takes_its_time(world: World, number: int, seconds: float) -> None:
    """Have a supplier that long be busy with something else before it does what it is asked."""
    mute = world.swarm.suppliers[number - 1].mute
    true = mute.answer

    async def answer(
        caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        await trio.sleep(seconds)
        return await true(caller, request, body)

    mute.answer = answer  # type: ignore[method-assign]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, by both clocks: the disk is a real one, and the fake clock does not wait for it."""
    fake_s, real_s = trio.current_time() + 3 * LEASE_S, monotonic() + REAL_S
    while not condition():
        if trio.current_time() > fake_s and monotonic() > real_s:
            raise trio.TooSlowError
        await trio.sleep(1)


class Asking:
    """A machine that asks to hold the volume, for a time."""

    def __init__(self, machine: Machine, *, for_s: float = 10 * LEASE_S, at: frozenset[int] = ALL) -> None:
        self.machine = machine
        self.at = at
        self.for_s = for_s
        self.told: list[Holds] = []

    async def run(self) -> Claimed:
        world, who = self.machine.world, self.machine.identity
        until_s = trio.current_time() + self.for_s

        def waits(told: Holds) -> bool:
            self.told.append(told)
            return trio.current_time() < until_s

        return await claim(
            world.swarm.network.dialer(who.node),
            who,
            [row for row in world.catalog.suppliers() if row.supplier in self.at],
            seat=self.machine.seat,
            lease_s=LEASE_S,
            takes_over=self.machine.takes_over,
            waits=waits,
        )
