"""A person chooses the line that all suppliers are ahead of: it counts as new then, and they take its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.testing.world import read_whole
from tests.engine.machines import DESKTOP, Machine, two
from tests.engine.test_forks import autojump_clock, brought_in, resolved, tree_of, versions

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
