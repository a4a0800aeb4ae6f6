"""A sync that ends without having reached all says why, where no waiting helps: a person is to do something."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli import status
from bitdustfs.core.report import SyncReport
from bitdustfs.core.units import format_size
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.passed_over import PASS_OVER_S
from bitdustfs.model import ROOT_INO, Code
from bitdustfs.testing.world import CALLER, World
from tests.engine.machines import DESKTOP, LEASE_S, Machine, until
from tests.engine.test_forks import (
    DESKTOPS,
    LAPTOPS,
    brought_in,
    brought_to,
    fork,
    forked,
    learn_beside,
    resolved,
    versions,
)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def synced(machine: Machine, timeout_s: float | None = 60) -> SyncReport:
    async def say_nothing(_step: object) -> None:
        return

    return await machine.node.sync(say_nothing, timeout_s)


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


@asynccontextmanager
async def forked_higher(directory: Path) -> AsyncIterator[tuple[World, Machine]]:
    """A volume of which two of five suppliers hold a line of higher versions, and who has brought that in."""
    async with World(code=Code(2, 5)).hired() as world:
        laptop, desktop = Machine(world, directory / "laptop"), Machine(world, directory / "desktop", DESKTOP)
        laptop.hire()
        async with laptop.mounted() as node:
            await laptop.write("file", b"common")
            assert await laptop.sync() == "safe"
            for each in world.swarm.suppliers[2:]:
                each.mute.refuses_heads = True
            for name in ("one", "two", "three", "four"):
                await laptop.write(name, LAPTOPS)
                await brought_to(world, laptop, (1, 2))
            node.holding.has_let_go = True  # it dies, and tells nobody
            laptop.cut()
        for number in (1, 2):
            world.swarm.cut(number)
        for each in world.swarm.suppliers:
            each.mute.refuses_heads = False
        await learn_beside(world, desktop)
        desktop.takes_over = True
        async with desktop.mounted(wait=False):
            await desktop.write("the desktop's", DESKTOPS)
            assert await desktop.sync() == "degraded"
            for number in (1, 2):
                world.swarm.heal(number)
            await brought_in(desktop)
            await trio.sleep(LEASE_S)  # fragments are offered to both
            assert desktop.node.publisher.version < max(versions(world))
            yield world, desktop


@pytest.mark.slow
async def test_volume_is_safe_again_after_a_line_of_higher_versions_was_gone_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Until then who holds that line takes no fragment from us: what was refused must not wait to be let go there."""
    async with forked_higher(tmp_path) as (_world, desktop):
        node = desktop.node
        await node.forks.resolve(node.forks.all()[0][0].name)
        await until(lambda: node.replica.is_current)
        assert await desktop.sync() == "safe"


@pytest.mark.slow
async def test_who_chooses_just_after_a_fragment_was_refused_does_not_wait_for_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Who refused was passed over for half a minute, although he takes everything as soon as it is chosen."""
    caplog.set_level(logging.INFO, "bitdustfs.engine.rebuilder")
    async with forked_higher(tmp_path) as (_world, desktop):
        node = desktop.node
        caplog.clear()
        await until(lambda: "did not take fragment" in caplog.text)
        await node.forks.resolve(node.forks.all()[0][0].name)
        with trio.fail_after(PASS_OVER_S / 2):
            assert await desktop.sync() == "safe"


@pytest.mark.slow
async def test_what_waits_for_a_choice_is_told_as_such_by_status_sync_and_the_forecast(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was told as repair that takes a second, and as what nobody takes, for which others should be hired."""
    async with forked_higher(tmp_path) as (_world, desktop):
        node = desktop.node
        until_chosen = "s1, s2 take no fragments from this machine before you have chosen with `bitdustfs resolve`"
        report, planned = await node.status(), await node.forecast()
        assert (report["state"], report["refusing"], report["repair_eta_s"]) == ("degraded", ["s1", "s2"], -1)
        (repair,) = (line for line in status.lines(report, "home") if line.startswith("  repair"))
        assert repair.endswith("; s1, s2 take none before you have chosen with `bitdustfs resolve`")
        assert planned["takers"] == [] and planned["held_up"][0].startswith(until_chosen)
        for told in (report["trouble"], (await synced(desktop))["why"]):
            assert any(each.startswith(until_chosen) for each in told)
        await node.forks.resolve(node.forks.all()[0][0].name)
        assert await desktop.sync() == "safe"
        report, planned = await node.status(), await node.forecast()
        assert (report["refusing"], planned["held_up"]) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("code", [None, Code(3, 5)])
async def test_sync_without_any_supplier_ends_and_says_so(
    autojump_clock: MockClock, tmp_path: Path, code: Code | None
) -> None:
    async with World(code=code).hired() as world:
        laptop = Machine(world, tmp_path / "laptop")
        with closing(SqliteCatalog(laptop.path, create=True)) as catalog:
            catalog.commit()
        async with laptop.mounted(wait=False) as node:
            node.tree.mkdir(ROOT_INO, b"folder", 0o755, CALLER)
            with trio.fail_after(300):
                told = await synced(laptop, timeout_s=None)
            seen, below = await node.status(), await node.status("/folder")
        assert (told["state"], seen["state"], below["state"]) == ("local", "local", "local")
        assert told["why"] == [seen["trouble"][0]]
        assert told["why"][0].startswith("no supplier is hired: everything exists only on this machine; ")
        assert not any("suppliers as the margin" in line for line in status.lines(seen, "home"))


@pytest.mark.slow
async def test_what_forks_hold_is_told_apart_from_snapshots(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It was told as what only snapshots have, where none could be deleted for it, and `df` did not count it."""
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted() as node:
        await brought_in(desktop)
        await node.snapshots.measure()
        much = len(LAPTOPS) + len(b"of the laptop")

        async def kept() -> tuple[int, int, int, int]:
            told = await node.status()
            return told["snapshots"], told["snapshot_bytes"], told["forks"], told["fork_bytes"]

        assert await kept() == (0, 0, 1, much)
        space = node.space()
        assert space.total_bytes - space.free_bytes == (await node.status())["bytes"] + much
        (told,) = node.snapshots.for_room(1)
        assert "choose with `bitdustfs resolve`" in told and format_size(much) in told
        await node.forks.resolve(node.forks.all()[0][0].name)
        await node.snapshots.measure()
        assert await kept() == (1, much, 0, 0)
        (told,) = node.snapshots.for_room(1)
        assert told.startswith("delete 1 snapshot")


@pytest.mark.slow
async def test_machine_whose_state_was_chosen_is_not_told_that_what_is_only_there_is_put_aside(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, laptop, _desktop), laptop.mounted() as node:
        await until(lambda: node.journal.refusal is not None)
        assert node.stop_report()["becomes"] == "aside"
        await brought_in(laptop)
        await resolved(world, laptop)
        told = node.stop_report()
        assert (told["becomes"], told["writer"]) == ("sent", "")
