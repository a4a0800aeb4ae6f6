"""A machine dies while it makes the fragments of a lost supplier again: the next process ends what was begun.

The moments are those of `tests.engine.doomed`, from the death of a supplier until what it held is held elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import erasure
from bitdustfs.core.grace import Patience
from bitdustfs.model import Code, FragmentRow, FragmentState, Supplier, SupplierNo
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import SECRETS, World
from tests.engine.doomed import Doom, DoomedCatalog, DoomedSuppliers

CODE = Code(3, 5)
LOST, SPARE = SupplierNo(1), SupplierNo(6)
FILES = {f"file {number}": random.Random(number).randbytes(200_000 + number) for number in range(4)}
A_WHILE_S = 600
POINTS = {  # what a rebuild passes, and whether power goes with the process
    "after commit supplier row": False,  # it is lost, and nothing was moved yet
    "before commit fragment row": True,
    "after commit upload row": False,  # durable before anything leaves
    "before put file": True,
    "after put file": False,  # it is there, and nobody knows
    "after commit upload row dropped": True,  # it counts
}
_HELD = """
    SELECT b.block_id, f.idx, f.supplier, b.k, b.length
    FROM {0}_fragment AS f JOIN {0}_block AS b USING (block) WHERE f.state = 1
"""


class Catalog(DoomedCatalog):
    """One whose moments also tell of fragments and suppliers."""

    def put_fragment(self, row: FragmentRow) -> None:
        super().put_fragment(row)
        self._notes.add("fragment row")

    def put_supplier(self, row: Supplier) -> None:
        super().put_supplier(row)
        self._notes.add("supplier row")

    def held_at(self, supplier: Supplier) -> dict[bytes, int]:
        """Names and lengths of what counts as held by a supplier."""
        rows = self.connection.execute(" UNION ALL ".join(map(_HELD.format, "lr")))
        return {
            bytes(SECRETS.fragment_name(block_id, index, supplier.node)): erasure.fragment_length(length, k)
            for block_id, index, number, k, length in rows
            if number == supplier.supplier
        }


class Machine:
    """A customer's machine, five suppliers and a spare one. It dies at moment `at` of the rebuild, or never."""

    def __init__(self, at: int | None = None) -> None:
        self.spool = MemorySpool()
        self.doom = Doom()
        self._at = at
        self.catalog = Catalog(self.doom)
        self.world = World(code=CODE, candidates=1, patience=Patience.of(60.0), coat=self._coat)
        self.world.boot = b"one"
        self.doom.binds(self.catalog, self.spool)

    def _coat(self, name: str, port: Any) -> Any:
        if name == "catalog":
            return self.catalog
        return DoomedSuppliers(port, self.doom) if name == "suppliers" else port

    async def work(self) -> None:
        """Until it dies, or all is made again. Moments count from the death of a supplier on."""
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                async with self.world.machine(self.catalog, self.spool):
                    await self._steps()
                nursery.cancel_scope.cancel()

            nursery.start_soon(live)
            await self.doom.struck.wait()
            nursery.cancel_scope.cancel()

    async def _steps(self) -> None:
        for name, content in FILES.items():
            await self.world.write(name, content)
        assert await self.world.sync() == "safe"
        await self.world.node.drop_cache()  # so that it has to be fetched from those that are left
        self.world.swarm.suppliers[LOST - 1].kill()
        self.doom.passed.clear()
        self.doom.at = self._at
        await self.until_whole()

    async def restart(self, *, power_loss: bool) -> None:
        """Start again on what the dead one left, and see how it ends."""
        dead, self.doom = self.doom, Doom()
        self.catalog, self.spool = Catalog(self.doom, dead.hard if power_loss else dead.image), dead.spool
        self.doom.binds(self.catalog, self.spool)
        if power_loss:
            self.spool.lose_power()
            self.world.boot = b"two"
        async with self.world.machine(self.catalog, self.spool, wait=False):
            await self.until_whole()
            for name, content in FILES.items():
                assert await self.world.read(name) == content

    async def until_whole(self) -> None:
        """Wait until every fragment is held without the lost one, and see that what is held is what is there."""
        with trio.move_on_after(A_WHILE_S):
            while not self._is_whole():
                await trio.sleep(1)
        assert not self._lacking(), "a fragment was lost on the way"
        for row in self._alive():
            held, there = self.catalog.held_at(row), self._stored(row)
            assert held == there, f"{row.label}: not what it has is what counts as held"
            counted = row.used_fragments, row.used_bytes
            assert counted == (len(there), sum(there.values())), f"{row.label}: counted twice, or not at all"

    def _is_whole(self) -> bool:
        return (
            not self._lacking()
            and not self.catalog.uploads()
            and self.world.node.replica.is_current
            and all(self.catalog.held_at(row) == self._stored(row) for row in self._alive())
        )

    def _lacking(self) -> list[Any]:
        lost = self.catalog.fragments_at(LOST, FragmentState.HELD, 1)
        return [*self.catalog.wanting_blocks(10), *lost]

    def _alive(self) -> list[Supplier]:
        return [row for row in self.catalog.suppliers() if row.supplier != LOST]

    def _stored(self, row: Supplier) -> dict[bytes, int]:
        shelf = self.world.swarm.suppliers[row.supplier - 1].shelf
        return {bytes(name): length for name, length in shelf.names(self.world.swarm.identity.owner, b"", 10_000)}


def in_virtual_time(story: Callable[..., Any], *args: object) -> Any:
    """Run a story with the dice that all others have, too."""
    trio._core._run._r.seed(1)
    return trio.run(story, *args, clock=MockClock(autojump_threshold=0))


@pytest.fixture(autouse=True)
def same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trio run tasks in the same order each time."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(1))


async def undisturbed() -> list[list[str]]:
    """The names of all moments of a rebuild that nothing ends, in order."""
    machine = Machine()
    async with machine.world.hired():
        await machine.work()
    assert machine.catalog.fragments_at(SPARE, FragmentState.HELD, 1)
    return machine.doom.named()


async def kill(at: int, power_loss: bool) -> None:
    """Kill the machine or its power at a moment, and start it again."""
    machine = Machine(at)
    async with machine.world.hired():
        await machine.work()
        assert machine.doom.dead, "the moment was not passed"
        await machine.restart(power_loss=power_loss)


@pytest.mark.slow
def test_rebuild_that_died_at_a_named_point_is_ended_by_the_next_process() -> None:
    moments = in_virtual_time(undisturbed)
    for point, power_loss in POINTS.items():
        passed = [at for at, names in enumerate(moments) if point in names]
        assert passed, point
        in_virtual_time(kill, passed[len(passed) // 2], power_loss)


@pytest.mark.long
@pytest.mark.parametrize("power_loss", [False, True])
def test_rebuild_that_died_at_any_moment_is_ended_by_the_next_process(power_loss: bool) -> None:
    for at in range(len(in_virtual_time(undisturbed))):
        in_virtual_time(kill, at, power_loss)
