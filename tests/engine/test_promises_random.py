"""Whatever happens: if as many suppliers go as `status` says may, every block of the tree that it speaks of is left.

A short story of a machine that writes and one that reads; suppliers die and come back with what they had, and are
lost and replaced where they stay away. Both machines are asked all the time, also while something is on its way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.core.report import StatusReport
from bitdustfs.model import ROOT_INO, BlockRow
from bitdustfs.testing.network import Break
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import SECRETS, World
from tests.engine.machines import CODE

PATIENCE_S = 600
STEPS = {
    "write": 6, "delete": 3, "sync": 4, "wait": 6, "kill": 4, "start": 5, "slow": 2, "cut": 1, "heal": 3,
}  # fmt: skip


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Story:
    """What happens, and what is said meanwhile."""

    def __init__(self, seed: int, world: World, second: SecondMachine) -> None:
        self.dice = random.Random(seed)
        self.world = world
        self.second = second
        self.names: list[str] = []
        self.passed: list[str] = []
        self.promised: set[tuple[str, int]] = set()  # who, and the margin
        self._files = 0

    async def step(self, nursery: trio.Nursery) -> None:
        """Let something happen."""
        (what,) = self.dice.choices(list(STEPS), weights=list(STEPS.values()))
        self.passed.append(f"{trio.current_time():.2f} {what}")
        swarm, reader = self.world.swarm, self.second.identity.node
        up = [each for each in swarm.suppliers if each.is_up]
        down = [each for each in swarm.suppliers if not each.is_up]
        if what == "write":
            await self._write()
        elif what == "delete" and self.names:
            name = self.names.pop(self.dice.randrange(len(self.names)))
            self.world.node.tree.unlink(ROOT_INO, name.encode())
        elif what == "sync":
            nursery.start_soon(self.world.sync)
        elif what == "wait":
            await self.wait(self.dice.choice([10, 60, PATIENCE_S]))
        elif what == "kill" and len(up) > CODE.k:
            self.dice.choice(up).kill()
        elif what == "start" and down:
            self.dice.choice(down).start()
        elif what == "slow":
            for each in up:
                each.mute.delay_s = self.dice.choice([0.0, 0.0, 0.3, 2.0])
        elif what in ("cut", "heal"):
            swarm.network.apply(Break(what), reader)
        await self.wait(self.dice.choice([0.2, 1, 3]))

    async def wait(self, seconds: float) -> None:
        """Let time pass, and ask again and again."""
        until_s = trio.current_time() + seconds
        while trio.current_time() < until_s:
            await trio.sleep(min(self.dice.choice([0.01, 0.1, 1, seconds / 4]), until_s - trio.current_time()))
            await self.check()

    async def check(self) -> None:
        """Ask both, and see whether it is so."""
        local = self.world.catalog.local_blocks()
        self._see("writer", await self.world.status(), [*self.world.catalog.blocks(), *local])
        self._see("reader", await self.second.node.status(), self.second.catalog.blocks())
        for name in self.names[:1]:
            self._see("writer's file", await self.world.node.status(name), self._blocks_of(name))

    # -- private ---------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        self._files += 1
        name = self.dice.choice([f"file {self._files}", *self.names])
        await self.world.write(name, self.dice.randbytes(self.dice.choice([20, 3_000, 300_000])))
        self.names = sorted({*self.names, name})

    def _blocks_of(self, name: str) -> list[BlockRow]:
        catalog = self.world.catalog
        inode = self.world.node.tree.lookup(ROOT_INO, name.encode())
        assert inode is not None
        return [row for row in map(catalog.block, catalog.blocks_of(inode.ino)) if row is not None]

    def _see(self, who: str, told: StatusReport, blocks: Sequence[BlockRow]) -> None:
        assert not blocks or told["margin"] <= told["held"] - told["needed"]
        self.promised.add((who, told["margin"]))
        if told["margin"] < 0:
            return
        for block in blocks:
            at = [self._indices(block, supplier) for supplier in self.world.swarm.suppliers]
            for left in combinations(at, len(at) - told["margin"]):
                have = len(frozenset[int]().union(*left))
                assert have >= block.code.k, f"{who} says {told}, and block {block} may be left with {have}: {at}"

    def _indices(self, block: BlockRow, supplier: SupplierNode) -> frozenset[int]:
        """The fragments of a block that a supplier has, and would give."""
        if not supplier.is_up:
            return frozenset()
        owner, shelf = self.world.swarm.identity.owner, supplier.memory_shelf
        names = (SECRETS.fragment_name(block.block_id, index, supplier.node) for index in range(block.code.n))
        return frozenset(index for index, name in enumerate(names) if shelf.content(owner, name) is not None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, *[pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40)]])
async def test_no_more_suppliers_may_go_than_status_says(
    autojump_clock: MockClock, tmp_path: Path, seed: int
) -> None:
    world = World(code=CODE, candidates=1, patience=Patience.of(PATIENCE_S), seed=seed)
    async with world.running(), trio.open_nursery() as nursery:
        await world.write("first", b"first")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running():
            story = Story(seed, world, second)
            try:
                for _ in range(60):
                    await story.step(nursery)
            except BaseException:
                print("\n".join(story.passed))
                raise
            nursery.cancel_scope.cancel()
    assert {"writer", "reader"} <= {who for who, margin in story.promised if margin > 0}, "nothing was promised"
