"""A person chooses the line that all suppliers are ahead of: it counts as new then, and they take its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.forks import AGAIN_S, LOOK_S
from bitdustfs.engine.publisher import OTHERS_S
from bitdustfs.errors import HeadBehind
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.world import read_whole
from tests.engine.machines import DESKTOP, Machine, two, until
from tests.engine.test_forks import (
    DESKTOPS,
    LAPTOPS,
    autojump_clock,
    brought_in,
    brought_to,
    learn_beside,
    resolved,
    tree_of,
    versions,
)

__all__ = ["autojump_clock"]  # a fixture for each test here too


@pytest.mark.slow
async def test_chosen_line_that_is_behind_at_all_suppliers_gets_its_new_files_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, _desktop):
        async with laptop.mounted():
            await laptop.write("first", b"first")
            assert await laptop.sync() == "safe"
            for supplier in world.swarm.suppliers:
                supplier.mute.refuses_heads = True
            await laptop.write("second", b"second")
            assert await laptop.sync() == "placed"
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = False
        desktop = Machine(world, tmp_path / "desktop", DESKTOP)
        await desktop.learn()
        desktop.takes_over = True
        async with desktop.mounted():
            for number in range(9):
                await desktop.write(f"the desktop's {number}", b"of the desktop")
                assert await desktop.sync() == "safe"
        async with laptop.mounted(wait=False) as node:  # what is there could not be fetched before
            generation = await brought_in(laptop)
            assert max(versions(world)) > node.publisher.version + 1
            await resolved(world, laptop)
            assert "the desktop's 8" in await tree_of(node, generation)
            assert await read_whole(node, "after it") == b"after it"


@pytest.mark.slow
async def test_who_goes_over_a_line_lets_nothing_go_there_before_his_head_is_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Nor elsewhere by its version, which may be above that of who writes on meanwhile."""
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", b"common")
            assert await laptop.sync() == "safe"
            for each in world.swarm.suppliers[1:]:
                each.mute.refuses_heads = True
            for name in ("one", "two", "three", "four"):
                await laptop.write(name, LAPTOPS)
                await brought_to(world, laptop, (1,))
            node.holding.has_let_go = True  # it dies, and tells nobody
            laptop.cut()
        world.swarm.cut(1)
        for each in world.swarm.suppliers:
            each.mute.refuses_heads = False
        await learn_beside(world, desktop)
        desktop.takes_over = True
        async with desktop.mounted(wait=False) as node:
            await desktop.write("the desktop's", DESKTOPS)
            assert await desktop.sync() == "safe"
            world.swarm.heal(1)
            await brought_in(desktop)
            publishes, node.publisher.may_publish = node.publisher.may_publish, lambda: False
            await node.forks.resolve(node.forks.all()[0][0].name)
            await trio.sleep(OTHERS_S)
            before = versions(world)[0]
            assert before > versions(world)[1]
            with pytest.raises(HeadBehind):
                await node.suppliers.delete(SupplierNo(1), [FragmentName(bytes(32))])
            node.publisher.may_publish = publishes
            await desktop.write("after it", DESKTOPS)
            assert await desktop.sync() == "safe"
            assert versions(world)[0] > before
            await node.suppliers.delete(SupplierNo(1), [FragmentName(bytes(32))])


@pytest.mark.slow
async def test_head_that_goes_on_from_ours_is_nothing_to_be_given_up_although_nobody_shows_it_for_a_while(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("first", b"first")
            assert await laptop.sync() == "safe"
            await learn_beside(world, desktop)
            for name in ("second", "third"):
                await laptop.write(name, LAPTOPS)
                assert await laptop.sync() == "safe"
        desktop.cut()
        async with desktop.mounted(wait=False) as node:
            await desktop.write("the desktop's", DESKTOPS)  # else it would follow
            desktop.heal()
            await until(lambda: node.publisher.foreign)
            await trio.sleep(LOOK_S)
            for each in world.swarm.suppliers:
                each.mute.refuses_heads = True
            await trio.sleep(2 * AGAIN_S)
            assert node.forks.unreadable() == {}
            assert node.forks.all() == []
