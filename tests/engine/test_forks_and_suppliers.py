"""Forks whose suppliers are not those of our line any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.testing.world import World
from tests.engine.machines import CODE, DESKTOP, Machine
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, fork, tree_of


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
