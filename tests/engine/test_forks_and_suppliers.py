"""Forks whose suppliers are not those of our line any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.model import BlockNo, FragmentRow, FragmentState, NodeId, OwnerId, Standing, SupplierNo
from bitdustfs.testing.world import World
from tests.engine.machines import CODE, DESKTOP, Machine, two, until
from tests.engine.recovered import recover
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, fork, tree_of
from tests.engine.test_forks_and_epochs import NEXT


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_supplier_that_only_we_have_is_not_asked_for_what_the_other_line_lacks(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The other line has no number for it, and so no name for what it may hold."""
    async with World(code=CODE, candidates=1).hired() as world:
        laptop, desktop = Machine(world, tmp_path / "laptop"), Machine(world, tmp_path / "desktop", DESKTOP)
        laptop.hire()
        await fork(world, laptop, desktop, 1, lost_at=(2,))
        async with desktop.mounted() as node:
            assert await tree_of(node, await brought_in(desktop)) == LAPTOPS_TREE


class Hiring(Machine):
    """A machine that hires somebody before it writes last, and says that he holds something."""

    async def write(self, name: str, content: bytes) -> None:
        if content == b"of the laptop":
            await until(lambda: not self.node.files.dirty_lives())
            last = max(row.block for row in self.catalog.blocks(after=BlockNo(0)))
            somebody = replace(
                self.catalog.suppliers()[0], supplier=SupplierNo(0), node=NodeId(b"n" * 32), owner=OwnerId(b"o" * 32)
            )
            with self.node.journal.operation():
                self.catalog.put_supplier(somebody)
                number = self.catalog.suppliers()[-1].supplier
                self.catalog.put_fragment(FragmentRow(last, 0, number, FragmentState.HELD))
        await super().write(name, content)


@pytest.mark.slow
@pytest.mark.parametrize("is_revoked", [False, True])
async def test_machine_that_was_put_out_hires_nobody_for_who_goes_on(
    autojump_clock: MockClock, tmp_path: Path, is_revoked: bool
) -> None:
    async with two(tmp_path) as (world, laptop, machine):
        await fork(world, Hiring(world, laptop.path), machine, 1)
        if is_revoked:
            world.swarm.cut(1)
            machine = Machine(world, tmp_path / "next", NEXT)
            await recover(world, machine.path, NEXT, friend=5)
            world.swarm.heal(1)
        async with machine.mounted() as node:
            generation = await brought_in(machine)
            hired = {row.node for row in machine.catalog.suppliers() if row.standing is Standing.HIRED}
            assert (NodeId(b"n" * 32) in hired) is not is_revoked
            assert await tree_of(node, generation) == LAPTOPS_TREE
