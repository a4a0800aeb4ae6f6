"""A sync that ends without having reached all says why, where no waiting helps: a person is to do something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.core.report import SyncReport
from bitdustfs.model import Code
from bitdustfs.testing.world import World
from tests.engine.machines import DESKTOP, Machine, until
from tests.engine.test_forks import brought_in, fork, forked


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def synced(machine: Machine) -> SyncReport:
    async def say_nothing(_step: object) -> None:
        return

    return await machine.node.sync(say_nothing, 60)


@pytest.mark.slow
async def test_sync_says_that_a_state_beside_this_one_is_to_be_chosen_about(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The three suppliers that take the newest head are not one more than any file may lose."""
    async with World(code=Code(2, 5)).hired() as world:
        laptop, desktop = Machine(world, tmp_path / "laptop"), Machine(world, tmp_path / "desktop", DESKTOP)
        laptop.hire()
        await fork(world, laptop, desktop, strays=2)
        async with desktop.mounted() as node:
            await brought_in(desktop)
            told = await synced(desktop)
            assert (told["state"], told["why"]) == ("placed", node.forks.lines())
            await node.forks.resolve(node.forks.all()[0][0].name)
            told = await synced(desktop)
            assert (told["state"], told["why"]) == ("safe", [])


@pytest.mark.slow
async def test_machine_whose_heads_count_no_more_is_told_to_take_the_other_state_whatever_versions_say(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (_world, laptop, _desktop), laptop.mounted() as node:
        await until(lambda: node.journal.refusal is not None)
        assert node.publisher.foreign is not None
        for is_newer in (True, False):
            node.replica.stop(replace(node.publisher.foreign, is_newer=is_newer))
            assert "Unmount it and mount it again" in str(node.replica.stopped)


@pytest.mark.slow
async def test_sync_says_that_nothing_is_changed_here_any_more(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (_world, laptop, _desktop), laptop.mounted() as node:
        await until(lambda: node.journal.refusal is not None)
        told = await synced(laptop)
        assert told["state"] != "safe"
        assert told["why"][0] == f"nothing can be changed now: {node.journal.refusal}"
