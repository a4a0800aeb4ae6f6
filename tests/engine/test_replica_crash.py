"""A machine dies in the middle of shipping its catalog: what was safe is at the suppliers, and it goes on after that.

The moments are those of `tests.engine.doomed`: before and after each commit, fragment, head and release. A machine
that burns at a moment leaves what its suppliers have then, so one run shows all moments; one that is killed goes on,
in a run of its own.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import replica
from bitdustfs.errors import BitdustError
from bitdustfs.model import ROOT_INO, Code
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import CALLER, World
from tests.engine.customer import Customer
from tests.engine.doomed import POINTS, Doom, DoomedCatalog, DoomedSuppliers
from tests.engine.recovered import Stock, Survivors, stocks

CODE = Code(3, 5)
DICE = random.Random(12)
LARGE, OTHER, SMALL = DICE.randbytes(300_000), DICE.randbytes(300_000), DICE.randbytes(200)
FILLER = [DICE.randbytes(60_000) for _ in range(20)]  # in all more than a young volume's deltas may be
A_WHILE_S = 120
FEW = {  # of which a run is quick enough for every change of the code; point -> which passing of it
    "before put delta": 17,
    "after commit base switched": 2,
    "after put_head": 17,
}


class Machine:
    """A customer's machine with its disk, in a world with five suppliers. It dies at moment `at`, or never."""

    def __init__(self, at: int | None = None) -> None:
        self.customer = Customer()
        self.spool = MemorySpool()
        self.doom = Doom()
        self._at = at
        self.catalog = DoomedCatalog(self.doom)
        self.world = World(code=CODE, coat=self._coat)
        self.world.boot = b"one"
        self.doom.binds(self.catalog, self.spool)

    def _coat(self, name: str, port: Any) -> Any:
        if name == "catalog":
            return self.catalog
        return DoomedSuppliers(port, self.doom) if name == "suppliers" else port

    def look(self) -> None:
        """Note what it says to be safe."""
        self.customer.look(self.world.node, self.catalog)

    async def work(self) -> None:
        """Pass every kind of moment at least once; until it dies, or to the end. Moments count from here on."""
        self.doom.passed.clear()
        self.doom.at = self._at
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                async with self.world.machine(self.catalog, self.spool):
                    await self._steps()
                nursery.cancel_scope.cancel()

            nursery.start_soon(live)
            await self.doom.struck.wait()  # perhaps before it was up
            nursery.cancel_scope.cancel()

    async def _steps(self) -> None:
        world, customer, node = self.world, self.customer, self.world.node
        node.attributes.set_xattr(ROOT_INO, b"user.x", FILLER[0])  # most of what the first snapshot's chunks hold
        await customer.write(world, b"large", LARGE)
        await customer.write(world, b"small", SMALL)
        await world.sync()
        await customer.write(world, b"large", OTHER)
        await customer.replace(world, b"small", LARGE[:5000])
        await node.replica.make_safe()  # the names, perhaps no byte
        await world.sync()
        for number in range(replica.MERGE_RUN):
            node.tree.mkdir(ROOT_INO, b"%d" % number, 0o755, CALLER)
            await node.replica.make_safe()
        node.attributes.set_xattr(ROOT_INO, b"user.x", b"")  # now they are hardly worth keeping
        for number, filler in enumerate(FILLER):
            made = node.tree.mkdir(ROOT_INO, b"d%d" % number, 0o755, CALLER)
            node.attributes.set_xattr(made.ino, b"user.x", filler)
        await node.replica.make_safe()
        customer.unlink(world, b"small")
        await customer.write(world, b"small", OTHER[:700])
        await node.replica.make_safe()
        await trio.sleep(45)  # the snapshot is there, and what it replaced is released
        await customer.write(world, b"last", SMALL)
        await world.sync()

    async def restart(self, *, power_loss: bool) -> None:
        """Start again on what the dead one left, go on, and see that all is in order in the end."""
        dead, self.doom = self.doom, Doom()
        self.catalog, self.spool = DoomedCatalog(self.doom, dead.hard if power_loss else dead.image), dead.spool
        self.doom.binds(self.catalog, self.spool)
        if power_loss:
            self.spool.lose_power()
            self.world.boot = b"two"
        async with self.world.machine(self.catalog, self.spool) as node:
            await self.customer.see(self.world)
            await self.customer.write(self.world, b"after", SMALL)
            assert await self.world.sync() == "safe"
            with trio.fail_after(A_WHILE_S):  # until what was given up is released
                while (
                    not node.replica.is_current
                    or node.replica.has_leftovers
                    or self.catalog.uploads()
                    or self.catalog.count_releases()
                ):
                    await trio.sleep(1)
            assert self._stored() == self.catalog.fragment_names(), "nothing is at suppliers that nobody knows of"
            self.look()

    def _stored(self) -> set[bytes]:
        owner = self.world.swarm.identity.owner
        return {
            bytes(name) for each in self.world.swarm.suppliers for name, _ in each.shelf.names(owner, b"", 10_000)
        }


@dataclass(frozen=True, slots=True)
class Burnt:
    """What is left when the machine burns at a moment."""

    stocks: dict[int, Stock]
    customer: Customer


class Witness:
    """A machine that does not die, and what would be left if it burnt at one of the chosen moments."""

    def __init__(self, chosen: Iterable[int]) -> None:
        self.machine = Machine()
        self.burnt: dict[int, Burnt] = {}
        self._chosen = frozenset(chosen)

    def _look(self) -> None:
        at = len(self.machine.doom.passed) - 1
        if at in self._chosen:
            self.machine.look()
            self.burnt[at] = Burnt(stocks(self.machine.world, copied=True), copy.deepcopy(self.machine.customer))

    async def work(self) -> None:
        """To the end."""
        async with self.machine.world.hired():
            self.machine.doom.looks = self._look
            await self.machine.work()

    async def faults(self, path: Path) -> list[str]:
        """Recover from what was left at each of the moments; say what is wrong."""
        names, found = self.machine.doom.named(), []
        for at, burnt in self.burnt.items():
            gone = random.Random(at).sample(range(1, CODE.n + 1), burnt.customer.margin)
            try:
                burnt.customer.check(await Survivors(burnt.stocks, without=gone).recover(path / "burnt"))
            except (BitdustError, AssertionError) as wrong:
                found.append(f"{names[at]} ({at}), without {gone}: {wrong}")
        return found


def in_virtual_time(story: Callable[..., Any], *args: object) -> Any:
    """Run a story with the dice that all others have, too."""
    trio._core._run._r.seed(1)
    return trio.run(story, *args, clock=MockClock(autojump_threshold=0))


@pytest.fixture(autouse=True)
def same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trio run tasks in the same order each time."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(1))


@pytest.fixture(scope="module")
def moments() -> list[list[str]]:
    """The names of all moments of a machine that does not die, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr("trio._core._run._r", random.Random(1))
        witness = Witness(())
        in_virtual_time(witness.work)
    return witness.machine.doom.named()


def passings(moments: list[list[str]], point: str) -> list[int]:
    """Where a point is passed."""
    return [at for at, names in enumerate(moments) if point in names]


@pytest.mark.slow
def test_all_named_points_are_passed(moments: list[list[str]]) -> None:
    assert {name for names in moments for name in names} >= POINTS


@pytest.mark.slow
def test_what_was_safe_comes_back_when_the_machine_burns_at_any_named_point(
    moments: list[list[str]], tmp_path: Path
) -> None:
    witness = Witness(at for point in POINTS for at in (passings(moments, point)[0], passings(moments, point)[-1]))
    in_virtual_time(witness.work)
    assert in_virtual_time(witness.faults, tmp_path) == []


@pytest.mark.long
def test_what_was_safe_comes_back_when_the_machine_burns_at_any_moment(
    moments: list[list[str]], tmp_path: Path
) -> None:
    witness = Witness(range(len(moments)))
    in_virtual_time(witness.work)
    assert in_virtual_time(witness.faults, tmp_path) == []


async def kill(at: int, path: Path, power_loss: bool) -> None:
    """Kill the machine or its power at a moment, start it again, burn it later."""
    machine = Machine(at)
    async with machine.world.hired():
        machine.doom.last_look = machine.look
        await machine.work()
        assert machine.doom.dead, "the moment was not passed"
        await machine.restart(power_loss=power_loss)
        gone = random.Random(at).sample(range(1, CODE.n + 1), CODE.n - CODE.k)
        found = await Survivors(stocks(machine.world), without=gone).recover(path / "burnt")
        assert found == machine.customer.now()


def marked(points: Iterable[str]) -> Iterator[Any]:
    """Of four points of two steps one is for every run, in turn the one before a step and the one after it."""
    steps = sorted({point.partition(" ")[2] for point in points})
    for point in sorted(points):
        word, _, step = point.partition(" ")
        turn = steps.index(step)
        is_chosen = turn % 2 == 0 and word == ("before", "after")[turn // 2 % 2]
        mark = pytest.mark.slow if is_chosen else pytest.mark.long
        yield point if point in FEW else pytest.param(point, marks=mark)


@pytest.mark.slow
@pytest.mark.parametrize("point", list(marked(POINTS)))
def test_machine_that_died_at_a_named_point_goes_on(moments: list[list[str]], point: str, tmp_path: Path) -> None:
    at = passings(moments, point)[FEW.get(point, 1) - 1]
    in_virtual_time(kill, at, tmp_path, point.startswith("after"))  # only killed before it, without power after it


@pytest.mark.long
@pytest.mark.parametrize("power_loss", [False, True])
def test_machine_that_died_at_any_moment_goes_on(moments: list[list[str]], power_loss: bool, tmp_path: Path) -> None:
    for at in range(len(moments)):
        in_virtual_time(kill, at, tmp_path, power_loss)
