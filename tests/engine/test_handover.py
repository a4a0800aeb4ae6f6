"""Hand-over: another machine asks, and the one that writes lets go; whatever dies on the way, one of them writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.claim import Claimed
from bitdustfs.errors import DiskFull, ReadOnly
from bitdustfs.model import SupplierNo, short
from tests.engine.machines import (
    ALL,
    CONTENT,
    LEASE_S,
    Asking,
    Machine,
    lies,
    makes_wishes_up,
    takes_its_time,
    two,
    until,
)

STEPS = ("bringing", "closing", "letting go", "let go")


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_writer_brings_everything_and_lets_go_and_the_other_machine_goes_on_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            await laptop.write("written last", b"written last")
            began = trio.current_time()
            assert await Asking(desktop).run() is Claimed.HELD
            assert trio.current_time() - began < LEASE_S / 4
            with pytest.raises(ReadOnly, match="everything from here is at the suppliers"):
                await laptop.write("never", b"never")
            await desktop.learn()
            async with desktop.mounted():
                assert desktop.shows("file")
                assert desktop.shows("written last")
                await desktop.write("there", b"there")
                assert await desktop.sync() == "safe"
        assert await Asking(laptop).run() is Claimed.HELD  # and back: the desktop is not mounted any more
        laptop.path = tmp_path / "laptop again"
        await laptop.learn()
        async with laptop.mounted():
            assert laptop.shows("there")
            await laptop.write("back", b"back")
            assert await laptop.sync() == "safe"


@pytest.mark.slow
async def test_wish_that_is_given_up_leaves_the_writer_as_it_was(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        for number in (1, 2, 3):
            world.swarm.suppliers[number - 1].mute.refuses_heads = True
        await laptop.write("later", b"cannot become safe now")
        assert await Asking(desktop, for_s=30).run() is Claimed.OTHERS
        await until(lambda: node.holding.wished_by is None)
        for number in (1, 2, 3):
            world.swarm.suppliers[number - 1].mute.refuses_heads = False
        await trio.sleep(LEASE_S)
        node.journal.admit_request()
        await laptop.write("and on", b"and on")
        assert await laptop.sync() == "safe"


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
async def test_writer_that_is_killed_while_it_hands_over_loses_nothing_and_nobody_writes_beside_the_other(
    autojump_clock: MockClock, tmp_path: Path, step: str
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop):
        reached = trio.Event()

        async def stop(at: str) -> None:
            if at == step:
                reached.set()
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            claimed: list[Claimed] = []

            async def ask() -> None:
                claimed.append(await Asking(desktop).run())

            async with laptop.mounted() as node:
                await laptop.write("file", CONTENT)
                assert await laptop.sync() == "safe"
                await laptop.write("written last", b"written last")
                node.handover.on_step = stop
                nursery.start_soon(ask)
                await reached.wait()
                await node.journal.durable()
                laptop.cut()  # what it does from here on reaches nobody: so it is as dead as after kill -9
                node.holding.has_let_go = True
            laptop.heal()
            with trio.fail_after(3 * LEASE_S):
                while not claimed:
                    await trio.sleep(1)
        assert claimed == [Claimed.HELD]  # at once, or when the lease of the dead one had run out
        await desktop.learn()
        async with desktop.mounted():
            assert desktop.shows("file")
            await desktop.write("there", b"there")
            assert await desktop.sync() == "safe"
            with closing(SqliteCatalog(laptop.path)):
                pass
            async with laptop.mounted() as node:  # without having asked
                await until(lambda: node.journal.refusal is not None)
                assert laptop.shows("written last")
            assert desktop.shows("written last") or step in ("bringing", "closing")


@pytest.mark.slow
async def test_who_takes_over_does_not_wait(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        desktop.takes_over = True
        asking = Asking(desktop)
        assert await asking.run() is Claimed.HELD
        assert asking.told == []
        await until(lambda: node.journal.refusal is not None)


@pytest.mark.slow
async def test_supplier_that_was_away_takes_the_head_of_who_took_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It has heard of the one before only, whose lease runs, and who took over insists no more."""
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            node.holding.has_let_go = True  # it dies, and tells nobody
            laptop.cut()
        laptop.heal()
        await desktop.learn()
        world.swarm.cut(5)
        desktop.takes_over = True
        async with desktop.mounted(wait=False):
            await desktop.write("taken", b"taken")
            await desktop.node.replica.make_safe()
        desktop.takes_over = False
        world.swarm.heal(5)
        began = trio.current_time()
        keeper, owner = world.swarm.suppliers[4].keeper, world.swarm.identity.owner
        async with desktop.mounted() as node:
            await until(lambda: keeper.head_version(owner) == node.publisher.version)
        assert trio.current_time() - began < LEASE_S / 2


@pytest.mark.slow
async def test_who_reaches_no_quorum_is_told_so(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (world, laptop, _desktop):
        for number in (1, 2, 3):
            world.swarm.cut(number)
        assert await Asking(laptop).run() is Claimed.UNREACHED


@pytest.mark.slow
async def test_of_two_that_ask_at_once_one_gets_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Each had some of the suppliers, and none a quorum: neither let go of what it had."""
    async with two(tmp_path) as (world, laptop, desktop):
        world.swarm.cut(5)
        assert await Asking(laptop, at=frozenset({1, 2})).run() is Claimed.HELD
        assert await Asking(desktop, at=frozenset({3, 4})).run() is Claimed.HELD
        async with trio.open_nursery() as nursery:

            async def ask(machine: Machine) -> None:
                assert await Asking(machine).run() is Claimed.HELD
                nursery.cancel_scope.cancel()

            with trio.fail_after(60):
                nursery.start_soon(ask, laptop)
                await ask(desktop)


@pytest.mark.slow
async def test_who_took_over_does_not_take_it_back_from_who_comes_later(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop):
        laptop.takes_over = desktop.takes_over = True
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            await until(lambda: len(node.holding._until_s) == len(ALL))
            some = frozenset({1, 2})
            assert await Asking(desktop, at=some).run() is Claimed.HELD
            await trio.sleep(30)
            assert node.holding._others == dict.fromkeys(map(SupplierNo, some), desktop.identity.node)


@pytest.mark.slow
async def test_supplier_that_lets_nobody_take_over_is_not_waited_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, _desktop):
        world.swarm.cut(4)
        world.swarm.cut(5)
        lies(world, 3)
        laptop.takes_over = True
        began = trio.current_time()
        assert await Asking(laptop).run() is Claimed.UNREACHED
        assert trio.current_time() - began < LEASE_S / 4


@pytest.mark.slow
async def test_supplier_that_makes_a_wish_up_has_nobody_let_go(autojump_clock: MockClock, tmp_path: Path) -> None:
    """What one of five said was enough: the writer let go, for nobody, after each mount."""
    async with two(tmp_path) as (world, laptop, desktop):
        makes_wishes_up(world, 3)
        async with laptop.mounted() as node:
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            await trio.sleep(LEASE_S)
            node.journal.admit_request()
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"
            world.swarm.cut(5)
            assert await Asking(desktop).run() is Claimed.HELD  # and for who does wish it, it does


@pytest.mark.slow
async def test_wish_is_heard_from_who_knows_few_of_the_suppliers(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It was switched off while the writer hired the other three."""
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        began = trio.current_time()
        assert await Asking(desktop, at=frozenset({1, 2})).run() is Claimed.HELD
        assert trio.current_time() - began < LEASE_S / 4


@pytest.mark.slow
async def test_wish_is_said_to_slow_suppliers_too(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Two were gone, one said that it is held, and the other two were not waited for: these were never told."""
    async with two(tmp_path) as (world, laptop, desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        for number in (2, 3):
            takes_its_time(world, number, 1.0)
        for number in (4, 5):
            world.swarm.cut(number)
        began = trio.current_time()
        assert await Asking(desktop).run() is Claimed.HELD
        assert trio.current_time() - began < LEASE_S / 4


@pytest.mark.slow
async def test_disk_that_is_full_when_the_wish_ends_hands_nothing_over(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was let go for good, with changes that no supplier had."""
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"

        def full() -> None:
            raise DiskFull(path="the catalog")

        async def fill(at: str) -> None:
            if at == "closing":
                await laptop.write("late", b"only here")
                laptop.cut()
                monkeypatch.setattr(laptop.catalog, "commit", full)

        node.handover.on_step = fill
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Asking(desktop, for_s=30).run)
            await until(lambda: node.journal.refusal is not None)
            await until(lambda: node.holding.wished_by is None)
            await trio.sleep(1)
        assert not node.holding.has_let_go
        monkeypatch.undo()
        node.handover.on_step = nothing
        laptop.heal()
        await until(lambda: node.journal.refusal is None)
        await laptop.write("and on", b"and on")
        assert await laptop.sync() == "safe"


@pytest.mark.slow
async def test_hand_over_that_a_full_disk_ends_is_tried_again(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (_world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"

        async def fail(at: str) -> None:
            if at == "bringing":
                node.handover.on_step = nothing
                raise DiskFull(path="the catalog")

        node.handover.on_step = fail
        assert await Asking(desktop).run() is Claimed.HELD
        assert "the volume is not handed over now" in caplog.text
        assert "failed and is started again" not in caplog.text


@pytest.mark.slow
async def test_sync_on_a_machine_that_lost_the_volume_says_who_writes_and_waits_for_nobody(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It waited half a minute for a supplier that was away, and named it, as if that were the reason."""
    async with two(tmp_path) as (world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        laptop.cut()
        await laptop.write("unsent", b"unsent")
        await trio.sleep(LEASE_S)
        desktop.takes_over = True
        assert await Asking(desktop).run() is Claimed.HELD
        laptop.heal()
        await until(lambda: node.journal.refusal is not None)
        world.swarm.cut(5)
        await until(lambda: SupplierNo(5) not in node.suppliers.online())
        began = trio.current_time()
        told = await node.sync(shown_nothing_missing, None)
        assert trio.current_time() - began < 5
        assert (told["state"], told["files_local"], told["missing"]) == ("local", 1, [])
        assert f"another machine of yours (node {short(desktop.identity.node)}) writes this volume" in told["why"][0]
        assert "'Put aside …'" in told["why"][0]


@pytest.mark.slow
async def test_sync_on_a_machine_that_follows_says_that_it_only_reads(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        assert await Asking(desktop).run() is Claimed.HELD
        told = await node.sync(shown_nothing_missing, None)
        assert (told["state"], told["why"]) == ("safe", [])
        await desktop.learn()
        world.swarm.cut(5)
        async with desktop.mounted(wait=False):
            await desktop.write("there", CONTENT[:100_000])
            await desktop.node.writer.flush()
            await desktop.node.replica.make_safe()
            await until(lambda: laptop.shows("there"))
        began = trio.current_time()
        told = await node.sync(shown_nothing_missing, None)
        assert trio.current_time() - began < 5
        assert told["missing_fragments"] and not told["missing"]
        assert told["why"] == [
            f"this machine only reads the volume: node {short(desktop.identity.node)} brings what is missing, "
            "and knows what is safe"
        ]


async def shown_nothing_missing(step: Mapping[str, object]) -> None:
    assert not step["missing"]


async def nothing(_step: str) -> None:
    return
