"""Lists of faults within a budget, at random: nothing is ever lost or wrong.

The budget: since the volume was last whole, at most n−k suppliers were anything but honest and there. Each holds at
most one fragment of a block, so at most n−k fragments of each block are affected. Then every read, at any time, gives
what was written last; after quiet time and a look through all suppliers every block has n good fragments on n
suppliers, also while those who cheat provably go on; and an empty machine recovers everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import Code
from bitdustfs.testing.byzantine import PROVABLE, Trick
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import World
from tests.engine.recovered import Survivors, stocks
from tests.engine.truth import all_blocks, assert_complete, spare

CODE = Code(3, 5)
SUPPLIERS = 7
BUDGET = CODE.n - CODE.k
STEPS = 8
READ_S = 60.0
HEAL_S = 400.0
LENGTHS = (1, 3_000, 20_000, 70_000, 260_000, 400_000)


class Story:
    """A world, what was written into it, and who is not honest."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.written: dict[str, bytes] = {}
        self.bad: set[int] = set()  # numbers from 1; never more than BUDGET
        self.told: list[str] = []

    async def write(self) -> None:
        """Make a file, or write over a part of one."""
        name = f"file {self.dice.randrange(4)}"
        content, old = self.dice.randbytes(self.dice.choice(LENGTHS)), self.written.get(name, b"")
        at = self.dice.randint(0, len(old))
        await self.world.write(name, content, offset=at)
        self.written[name] = old[:at] + content + old[at + len(content) :]
        self.told.append(f"{name} at {at}: {len(content)} bytes")

    async def sync(self) -> None:
        await self.world.sync()

    async def cheat(self) -> None:
        """Some who were honest are not any more."""
        honest = sorted(set(range(1, SUPPLIERS + 1)) - self.bad)
        for number in self.dice.sample(honest, self.dice.randint(0, BUDGET - len(self.bad))):
            self.bad.add(number)
            self._turn_bad(number, self.world.swarm.suppliers[number - 1])

    async def read(self) -> None:
        """Everything is what was written."""
        await self.world.node.drop_cache()
        for name, content in self.written.items():
            with trio.fail_after(READ_S):
                assert await self.world.read(name) == content

    async def heal(self) -> None:
        """All is whole again: those who cheat provably may go on meanwhile, the others are honest from now on."""
        for number in sorted(self.bad):
            supplier = self.world.swarm.suppliers[number - 1]
            self.world.swarm.heal(number)
            if not supplier.is_up or supplier.conduct.tricks - PROVABLE or self.dice.random() < 0.5:
                self._turn_good(number, supplier)
        await self.until_whole()
        assert_complete(self.world)
        for number in sorted(self.bad):
            self._turn_good(number, self.world.swarm.suppliers[number - 1])
        self.bad.clear()
        self.told.append("whole")

    async def recover(self, path: Path) -> None:
        """An empty machine gets everything, though n−k suppliers are gone."""
        assert await self.world.sync() == "safe"
        gone = self.dice.sample(range(1, SUPPLIERS + 1), BUDGET)
        found = await Survivors(stocks(self.world), without=gone).recover(path)
        assert found == {name.encode(): content for name, content in self.written.items()}

    async def until_whole(self) -> None:
        """Look through everybody until all that counts as held is there, and nothing is missing."""
        with trio.fail_after(HEAL_S):
            while True:
                found = await self.world.node.audit("", _quiet)
                is_there = not any(each["wrong"] or each["silent"] for each in found)
                if is_there and not self.world.catalog.wanting_blocks(1):
                    return
                await trio.sleep(10)

    # -- private ---------------------------------------------------------------------------------------------

    def _turn_bad(self, number: int, supplier: SupplierNode) -> None:
        swarm = self.world.swarm
        ways: list[Callable[[], object]] = [
            supplier.kill,
            supplier.wipe,
            lambda: swarm.cut(number),
            lambda: swarm.silence(number),
        ]
        ways += [lambda trick=trick: supplier.conduct.tricks.add(trick) for trick in Trick for _ in range(2)]  # type: ignore[misc]
        self.dice.choice(ways)()
        if self.dice.random() < 0.3:  # half of its fragments only
            bit = self.dice.randrange(8)
            supplier.conduct.touches = lambda name: bool(name[0] >> bit & 1)
        self.told.append(f"s{number}: {sorted(trick.value for trick in supplier.conduct.tricks) or 'gone'}")

    def _turn_good(self, number: int, supplier: SupplierNode) -> None:
        supplier.conduct.reform()
        self.world.swarm.heal(number)
        if not supplier.is_up:
            supplier.start()
        self.told.append(f"s{number}: honest")


async def _quiet(_step: object) -> None:
    return


async def tell(seed: int, tmp_path: Path) -> None:
    """One story, to its end."""
    dice = random.Random(seed)
    async with World(suppliers=SUPPLIERS, code=CODE, seed=seed).running() as world:
        story = Story(world, dice)
        try:
            await story.write()
            await story.sync()
            for _ in range(STEPS):
                step = dice.choice((story.write, story.cheat, story.cheat, story.read, story.heal))
                await step()
                for block in all_blocks(world):
                    assert spare(world, block) >= 0, f"block {block.block} is lost"
            await story.read()
            await story.heal()
            await story.recover(tmp_path / "catalog")
        except BaseException:
            print(f"seed {seed}: " + "; ".join(story.told))
            raise


@pytest.mark.slow
@pytest.mark.parametrize("seed", (7, 13, 16))
async def test_nothing_is_lost_or_wrong_within_the_budget(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, tmp_path: Path, seed: int
) -> None:
    await tell(seed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
async def test_nothing_is_lost_or_wrong_within_the_budget_in_many_stories(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, tmp_path: Path, seed: int
) -> None:
    await tell(seed, tmp_path)
