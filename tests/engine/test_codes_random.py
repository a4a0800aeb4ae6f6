"""Random stories of a volume whose codes change, while files, suppliers and the machine come and go.

As in the stories of upkeep, and besides: each start of the machine may have another code for the volume, files get
codes of their own, and what has another k than it should is coded anew. After every step no block has fewer held
fragments than before and than are wished of it. When all is quiet, each file has the code that it should have.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.codes import wished_code
from bitdustfs.engine.attributes import CODE_XATTR
from bitdustfs.errors import FileError
from bitdustfs.model import ROOT_INO, BlockNo, Code
from tests.engine.customer import say_nothing
from tests.engine.test_upkeep_random import NAMES, Story

SEEDS = [pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 200)]
CODES = [Code(1, 3), Code(2, 4), Code(2, 5), Code(3, 5), Code(3, 6), Code(4, 6)]  # each survives two


class CodeStory(Story):
    """A story in which codes change too."""

    async def live(self, steps: int) -> None:
        self.world.options = replace(self.world.options, code=self.dice.choice([*CODES, None]))
        await super().live(steps)

    async def step(self) -> None:
        match self.dice.randrange(8):
            case 0:
                await self.world.node.recode(None, say_nothing, is_dry=False)
            case 1:
                self.choose()
            case _:
                await super().step()

    def leave(self) -> None:
        """One is to leave, as long as enough stay for every code that may come: no block can be full with fewer."""
        if sum(row.is_hired for row in self.catalog.suppliers()) > max(code.n for code in CODES):
            super().leave()

    def choose(self) -> None:
        """Some file gets a code of its own, or none any more."""
        inode = self.world.node.tree.lookup(ROOT_INO, self.dice.choice(NAMES))
        if inode is not None:
            with suppress(FileError):  # more than are hired, or there was none
                if self.dice.random() < 0.8:
                    code = str(self.dice.choice(CODES)).encode()
                    self.world.node.attributes.set_xattr(inode.ino, CODE_XATTR, code)
                else:
                    self.world.node.attributes.drop_xattr(inode.ino, CODE_XATTR)

    async def end(self) -> None:
        self.return_all()
        self.world.options = replace(self.world.options, code=Code(2, 4))
        async with self.world.machine(self.catalog, self.spool) as node:
            with trio.fail_after(7200):
                while await self.world.sync() != "safe":
                    await trio.sleep(10)
                await node.recode(None, say_nothing, is_dry=False)
                while not self.is_as_wished():
                    await trio.sleep(10)
        await super().end()

    def is_as_wished(self) -> bool:
        """Every chunk lies in a block of its k, with all fragments, and nothing of the old blocks is left."""
        for block in self.catalog.blocks():
            told = [wished_code(codes, Code(2, 4)) for _, codes in self.catalog.wishes(block.block)]
            if any(code is not None and (code.k != block.code.k or code.n > block.code.n) for code in told):
                return False
            if self.catalog.held(block.block) < block.code.n:
                return False
        return not self.catalog.count_marked()[0] and not self.catalog.dead_blocks(1, BlockNo(0))


@pytest.fixture(autouse=True)
def same_schedule(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trio run tasks in an order that the seed says, so that a failure comes again."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_codes_change_and_nothing_is_lost_or_less_safe(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trio.run(CodeStory(seed, tmp_path).tell, clock=MockClock(autojump_threshold=0))
