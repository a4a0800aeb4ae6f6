"""Who may write: of two machines of one owner one does, and what the other one had is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.adoption import LETTER
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.claim import Claimed
from bitdustfs.errors import ReadOnly
from bitdustfs.model import ROOT_INO, FileState, short
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import World
from tests.engine.machines import ALL, CONTENT, COPY, DESKTOP, LAPTOP, LEASE_S, Asking, Machine, lies, two, until
from tests.engine.setback import FOLDER, Bench, content, fetch, look


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_second_machine_does_not_write_while_the_first_one_does(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        await desktop.learn()
        async with desktop.mounted():
            await until(lambda: desktop.node.journal.refusal is not None)
            with pytest.raises(ReadOnly, match="another machine of yours"):
                await desktop.write("file2", b"never")
            await trio.sleep(3 * LEASE_S)
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"
            assert laptop.node.holding.is_held


@pytest.mark.slow
async def test_copy_of_a_home_is_read_only_while_the_first_one_writes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """F15."""
    async with two(tmp_path) as (world, laptop, _desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
        copy = Machine(world, tmp_path / "copy", LAPTOP, COPY)
        copy.path.write_bytes(laptop.path.read_bytes())
        async with laptop.mounted():
            await until(lambda: laptop.node.holding.is_held)
            async with copy.mounted():
                await until(lambda: copy.node.journal.refusal is not None)
                with pytest.raises(ReadOnly, match="a copy of this home"):
                    await copy.write("never", b"never")
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"


@pytest.mark.slow
async def test_first_one_does_not_let_go_for_a_copy_of_its_home(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (world, laptop, _desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        copy = Machine(world, tmp_path / "copy", LAPTOP, COPY)
        assert await Asking(copy, for_s=LEASE_S).run() is Claimed.OTHERS
        assert node.holding.is_held
        await laptop.write("later", b"later")
        assert await laptop.sync() == "safe"


@pytest.mark.slow
async def test_volume_that_was_let_go_is_written_elsewhere_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (_world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            await laptop.sync()
        await desktop.learn()
        began = trio.current_time()
        async with desktop.mounted():
            await desktop.write("file2", b"two")
            assert await desktop.sync() == "safe"
            assert trio.current_time() - began < LEASE_S / 4


@pytest.mark.slow
async def test_writer_that_is_cut_off_goes_on_here_and_others_wait_for_its_lease(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """F39: what the old writer had unsent is put aside, with the bytes that only he had."""
    who = f"another machine of yours (node {short(DESKTOP.node)})"
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            await desktop.learn()
            laptop.cut()
            await laptop.write("only here", b"only here")
            assert laptop.node.stop_report()["becomes"] == "sent"
            await until(lambda: not laptop.node.holding.is_held)
            await trio.sleep(LEASE_S)
            await laptop.write("only here too", b"on the train")
            async with desktop.mounted():
                await desktop.write("file2", b"two")
                assert await desktop.sync() == "safe"
                laptop.heal()
                await until(lambda: laptop.node.journal.refusal is not None)
                with pytest.raises(ReadOnly):
                    await laptop.write("never", b"never")
                told = laptop.node.stop_report()
                assert (told["files_local"], told["becomes"], told["writer"]) == (2, "aside", who)
                assert laptop.shows("only here")
                assert not desktop.shows("only here")
        with closing(SqliteCatalog(laptop.path)) as old:
            found = await look(world, old)
            assert found is not None
            new = tmp_path / "new"
            bench = Bench(world, old, laptop.spool, await fetch(world, old, found, new))
            laptop.path, laptop.spool = new, MemorySpool()
            async with laptop.mounted() as node:
                await bench.job(node, laptop.catalog).run()
                assert await content(world, laptop.catalog, f"{FOLDER}/only here") == b"only here"
                assert await content(world, laptop.catalog, f"{FOLDER}/only here too") == b"on the train"
                letter = (await content(world, laptop.catalog, f"{FOLDER}/{LETTER.decode()}")).decode()
                assert f"another state of this volume, written by {who}." in letter and "disk" not in letter
                assert await content(world, laptop.catalog, "file2") == b"two"
                assert await laptop.sync() == "safe"


@pytest.mark.slow
async def test_writer_that_slept_does_not_take_itself_for_the_holder(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """No deadline moved while it slept; CLOCK_BOOTTIME did."""
    async with two(tmp_path) as (_world, laptop, _desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        laptop.wall.suspend_s(LEASE_S)
        assert not laptop.node.holding.is_held
        await laptop.write("later", b"later")
        assert await laptop.sync() == "safe"  # suppliers say that nobody else wrote


@pytest.mark.slow
async def test_wall_clock_that_jumps_moves_no_lease(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (_world, laptop, _desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        for years in (10, -20):
            laptop.wall.move_s(years * 365 * 86_400)
            assert laptop.node.holding.is_held


@pytest.mark.slow
async def test_who_takes_over_writes_at_once_and_the_first_one_stops(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        await desktop.learn()
        desktop.takes_over = True
        began = trio.current_time()
        async with desktop.mounted():
            await desktop.write("file2", b"two")
            assert await desktop.sync() == "safe"
            await until(lambda: laptop.node.journal.refusal is not None)
            assert trio.current_time() - began < LEASE_S / 4
            with pytest.raises(ReadOnly):
                await laptop.write("never", b"never")


@pytest.mark.slow
async def test_killed_writer_goes_on_without_waiting_for_its_own_lease(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, _desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            node.holding.has_let_go = True  # the end of this process tells nobody
            laptop.cut()
        laptop.heal()
        began = trio.current_time()
        async with laptop.mounted():
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"
            assert trio.current_time() - began < LEASE_S / 4
            (found,) = (laptop.node.tree.lookup(ROOT_INO, b"later"),)
            assert found is not None
            assert laptop.node.files.state(found.ino) is FileState.SAFE


@pytest.mark.slow
async def test_machine_that_was_killed_between_winning_and_serving_goes_on_at_once_and_others_wait_for_its_lease(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
        await desktop.learn()
        began = trio.current_time()
        assert await Asking(desktop).run() is Claimed.HELD  # and it tells nobody that it is gone
        assert await Asking(laptop, for_s=5).run() is Claimed.OTHERS
        assert await Asking(desktop).run() is Claimed.HELD
        async with desktop.mounted():
            await desktop.write("later", b"later")
            assert await desktop.sync() == "safe"
            assert trio.current_time() - began < LEASE_S / 4
        began = trio.current_time()
        assert await Asking(desktop).run() is Claimed.HELD
        assert await Asking(laptop).run() is Claimed.HELD
        assert LEASE_S * 3 / 4 < trio.current_time() - began < LEASE_S * 5 / 4


@pytest.mark.slow
@pytest.mark.parametrize("takes_over", [False, True])
async def test_one_supplier_that_lies_stops_nobody_from_writing(
    autojump_clock: MockClock, tmp_path: Path, takes_over: bool
) -> None:
    """Two others were away, and what one says was enough to change nothing any more."""
    async with two(tmp_path) as (world, laptop, _desktop):
        laptop.takes_over = takes_over
        lies(world, 3)
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            world.swarm.cut(4)
            world.swarm.cut(5)
            await until(lambda: not node.holding.is_held)
            await laptop.write("later", b"later")
            await trio.sleep(LEASE_S)
            assert node.journal.refusal is None
            world.swarm.heal(4)
            await until(lambda: node.holding.is_held)
            assert await laptop.sync() == "safe"


def start_again(world: World) -> None:
    for supplier in world.swarm.suppliers:
        supplier.kill()
        supplier.start()


@pytest.mark.slow
async def test_writer_that_has_written_nothing_yet_is_the_holder_for_suppliers_that_start_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """They took the signer of their head for the holder, and this machine changed nothing any more."""
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
        await desktop.learn()
        async with desktop.mounted() as node:
            await until(lambda: len(node.holding._until_s) == len(ALL))
            start_again(world)
            await trio.sleep(2 * LEASE_S)
            await desktop.write("later", b"later")
            assert await desktop.sync() == "safe"


@pytest.mark.slow
async def test_machine_that_was_unmounted_is_waited_for_by_nobody_after_suppliers_start_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
        start_again(world)
        assert await Asking(desktop, for_s=5).run() is Claimed.HELD
