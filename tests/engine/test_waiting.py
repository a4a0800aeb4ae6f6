"""Whom it waits for that anything is let go, and what a person may do about a supplier that does not come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.model import ROOT_INO
from tests.engine.machines import DESKTOP, LAPTOP, Machine, until
from tests.engine.test_forks import forked, learn_beside, versions
from tests.engine.test_sightings import seen_and_not_brought_in


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_line_that_only_a_silent_supplier_showed_is_told_with_its_name_and_can_be_let_be(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        await seen_and_not_brought_in(world, desktop)
        async with desktop.mounted(wait=False) as node:
            await until(node.forks.unreadable)
            ((name, unread),) = node.forks.unreadable().items()
            status = await node.status()
            (waits,) = status["waits_for"]
            assert waits == {
                "what": "releases",
                "supplier": "s1",
                "answers": False,
                "version": unread.found.head.version,
                "node": LAPTOP.node.hex(),
                "name": name,
            }
            (told,) = (line for line in status["trouble"] if "nothing is let go" in line)
            assert "s1, which does not answer" in told
            assert f"bitdustfs resolve '{name}'" in told
            assert not node.releases.may_release()
            await node.forks.let_be(name)
            node.tree.unlink(ROOT_INO, b"old")
            assert await desktop.sync() == "safe"
            await until(node.releases.may_release)
            status = await node.status()
            assert status["waits_for"] == []
            assert node.forks.lines() == []
            world.swarm.heal(1)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            assert node.forks.all() == []
            assert node.forks.lines() == []


@pytest.mark.slow
async def test_supplier_that_has_not_shown_its_head_is_told_while_orphans_wait_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        world.swarm.cut(1)
        machine = Machine(world, tmp_path / "again", DESKTOP)
        await learn_beside(world, machine)
        async with machine.mounted(wait=False) as node:
            expect_orphans(machine.catalog)
            node.journal.note()
            await until(lambda: node.publisher.confirmed)
            (waits,) = (await node.status())["waits_for"]
            assert waits == {
                "what": "orphans",
                "supplier": "s1",
                "answers": False,
                "version": 0,
                "node": "",
                "name": "",
            }
            assert any("s1 has not shown" in line for line in (await node.status())["trouble"])
            world.swarm.heal(1)
            world.swarm.suppliers[0].mute.refuses_heads = False
            await until(lambda: node.forks.all())
