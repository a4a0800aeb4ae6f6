"""Hand-over while suppliers are away: what a head that counts names goes on at who wishes to write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.claim import Claimed
from bitdustfs.errors import ReadOnly
from bitdustfs.model import NO_BLOCK, Code
from bitdustfs.testing.world import World
from tests.engine.machines import CONTENT, DESKTOP, LEASE_S, Asking, Machine, until
from tests.engine.test_forks import brought_in, fork, learn_beside


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_writer_lets_go_although_too_few_suppliers_answer_for_anything_to_be_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=Code(2, 5)).hired() as world:
        laptop, desktop = Machine(world, tmp_path / "laptop"), Machine(world, tmp_path / "desktop", DESKTOP)
        laptop.hire()
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            for number in (1, 2):
                world.swarm.cut(number)
            await laptop.write("written last", b"written last")
            began = trio.current_time()
            assert await Asking(desktop).run() is Claimed.HELD
            assert trio.current_time() - began < LEASE_S / 2
            await learn_beside(world, desktop)
            async with desktop.mounted(wait=False):
                assert desktop.shows("written last")
                await desktop.write("there", b"there")
                for number in (1, 2):
                    world.swarm.heal(number)
                await until(lambda: desktop.node.replica.is_current)  # they hold it for the laptop for a while yet
            await until(lambda: laptop.shows("there"))


@pytest.mark.slow
async def test_head_of_which_a_part_lies_at_those_who_are_away_lets_nobody_go_on_from_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=Code(2, 5)).hired() as world:
        laptop = Machine(world, tmp_path / "laptop")
        laptop.hire()
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            assert node.replica.is_counted
            for number in (1, 2):
                world.swarm.cut(number)
            await until(lambda: set(node.suppliers.online()) == {3, 4, 5})
            assert node.replica.is_counted
            part = min(node.replica._needed.named() or {NO_BLOCK})
            with node.journal.operation():
                for row in laptop.catalog.fragments(part):
                    if row.supplier > 2:
                        laptop.catalog.drop_fragment(part, row.index, row.supplier)
            node.journal.commit()
            assert laptop.catalog.held(part) == 2
            assert not node.replica.is_counted


@pytest.mark.slow
async def test_writer_lets_go_although_nobody_has_chosen_about_a_fork(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=Code(2, 5)).hired() as world:
        laptop, desktop = Machine(world, tmp_path / "laptop"), Machine(world, tmp_path / "desktop", DESKTOP)
        laptop.hire()
        await fork(world, laptop, desktop, strays=2)
        async with desktop.mounted() as node:
            await brought_in(desktop)
            began = trio.current_time()
            assert await Asking(laptop).run() is Claimed.HELD
            assert trio.current_time() - began < LEASE_S / 2
            with pytest.raises(ReadOnly, match="everything from here is at the suppliers"):
                node.journal.admit()
