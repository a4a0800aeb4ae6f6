"""Forks while they come in, those that do not come, and machines that have no say in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.recovery import Progress, Recovery
from bitdustfs.errors import BadFormat, NotFound, ReadOnly
from bitdustfs.model import BlockNo, FragmentState, SnapshotKind, Standing
from bitdustfs.ports import Restore
from bitdustfs.testing.swarm import make_identity
from tests.engine.machines import LAPTOP, LEASE_S, Machine, two, until
from tests.engine.setback import fetch, look
from tests.engine.test_forks import (
    DESKTOPS_TREE,
    LAPTOPS_TREE,
    LAST_TREE,
    broken,
    brought_in,
    brought_to,
    dress_of,
    forked,
    kinds,
    learn_beside,
    resolved,
    tree_of,
    versions,
)

THIRD = make_identity("third", owner="customer")


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def give_up_first(machine: Machine) -> None:
    """Fire the first supplier, as `fire` does."""
    (row,) = (each for each in machine.catalog.suppliers() if each.supplier == 1)
    machine.catalog.put_supplier(replace(row, standing=Standing.FIRED))
    machine.node.journal.note()


def lose_most(machine: Machine) -> None:
    """All blocks are less well held than they should be."""
    with machine.node.journal.operation():
        for block in machine.catalog.blocks(after=BlockNo(0)):
            for each in machine.catalog.fragments(block.block):
                if each.supplier > 3:
                    machine.catalog.put_fragment(replace(each, state=FragmentState.LOST))


@pytest.mark.slow
@pytest.mark.parametrize("late", [(), (1,), (2,)])
async def test_heads_of_one_line_at_two_suppliers_are_one_fork_and_the_newest_is_shown(
    autojump_clock: MockClock, tmp_path: Path, late: tuple[int, ...]
) -> None:
    async with forked(tmp_path, strays=2, goes_on=True) as (world, _laptop, desktop):
        for number in late:
            world.swarm.cut(number)
        async with desktop.mounted(wait=False) as node:
            await brought_in(desktop)
            for number in late:
                world.swarm.heal(number)
            await until(lambda: len(node.publisher.others) == 2 and node.forks.has_everything)
            await trio.sleep(LEASE_S)
            ((snapshot, _fork),) = node.forks.all()
            assert await tree_of(node, snapshot.generation) == LAST_TREE
            await resolved(world, desktop)


@pytest.mark.slow
async def test_supplier_with_an_older_head_of_a_line_gets_ours_though_that_went_on_before_ours_went_over_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path, strays=2, goes_on=True) as (world, _laptop, desktop):
        world.swarm.cut(2)
        async with desktop.mounted(wait=False) as node:
            await brought_in(desktop)
            publishes, node.publisher.may_publish = node.publisher.may_publish, lambda: False
            await node.forks.resolve(node.forks.all()[0][0].name)
            await until(lambda: not node.publisher.others)  # the first supplier is asked again
            world.swarm.heal(2)
            await brought_in(desktop)
            node.publisher.may_publish = publishes
            await resolved(world, desktop)
            assert set(versions(world)) == {node.publisher.version}


@pytest.mark.slow
async def test_snapshots_that_a_person_made_on_the_other_line_are_kept_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path, snapshots=["one", "two"]) as (world, laptop, _desktop):
        async with laptop.mounted() as node:
            laptop.wall.move_s(10)
            await node.snapshots.create("two", 0)
            generation = await brought_in(laptop)
            assert await tree_of(node, generation) == DESKTOPS_TREE
            found = {each.name: await tree_of(node, each.generation) for each in node.snapshots.all()}
            assert found.keys() == {"one before", "two before", "one", "two", "two (2)"}
            without_links = {name: content for name, content in DESKTOPS_TREE.items() if "link" not in name}
            assert found["one"] == {**without_links, "one": b"in a snapshot"}
            assert found["two (2)"] == {**without_links, "two": b"in a snapshot"}
            assert not broken(laptop.catalog)
        with closing(SqliteCatalog(laptop.path)) as old:
            newer = await look(world, old, LAPTOP)
            assert newer is not None
            plan = await fetch(world, old, newer, tmp_path / "new")
        assert [note for note in plan.notes if "snapshot" in note] == [
            "snapshot made: two; that state does not have it"
        ]


@pytest.mark.slow
async def test_each_tree_of_a_fork_has_the_attributes_that_it_had_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Also of the root, and of a file that all of them have: each tree is brought in as if it were the first."""
    async with forked(tmp_path, snapshots=["1", "of 2"]) as (_world, laptop, _desktop), laptop.mounted() as node:
        generation = await brought_in(laptop)
        found = {each.name: dress_of(node, each.generation) for each in node.snapshots.all()}
        assert found["1"] == [(0o701, b"1"), (0o601, b"1")]
        assert found["of 2"] == dress_of(node, generation) == [(0o704, b"of 2"), (0o604, b"of 2")]
        assert found["1 before"] == found["of 2 before"]


@pytest.mark.slow
async def test_newer_head_of_a_line_of_which_little_is_left_takes_nothing_of_it_away(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """What of the first one is not needed any more is let go, and the second one needs the same blocks."""
    async with forked(tmp_path, strays=2, goes_on=True) as (world, _laptop, desktop):
        world.swarm.cut(2)
        async with desktop.mounted(wait=False) as node:
            await brought_in(desktop)
            node.forks.on_step = lambda step: lose_most(desktop) if step == "grafting" else None
            world.swarm.heal(2)
            await until(lambda: len(node.publisher.others) == 2 and node.forks.has_everything)
            assert await desktop.sync() == "safe"
            await trio.sleep(1800)
            await node.drop_cache()
            ((snapshot, _fork),) = node.forks.all()
            assert await tree_of(node, snapshot.generation) == LAST_TREE


@pytest.mark.slow
async def test_nothing_is_let_go_while_a_fork_comes_in_although_nobody_shows_it_any_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted() as node:
        told: dict[str, bool] = {}

        def on_step(step: str) -> None:
            if step == "fetching":
                give_up_first(desktop)
            told[step] = node.releases.may_release()

        node.forks.on_step = on_step
        generation = await brought_in(desktop)
        assert told == {"fetching": False, "grafting": False, "keeping": False}
        assert await tree_of(node, generation) == LAPTOPS_TREE
        await until(node.releases.may_release)


@pytest.mark.slow
async def test_nothing_is_let_go_before_a_safe_head_names_what_came(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """If this machine died, the head of the other line and its catalog would be all that there is of it."""
    async with forked(tmp_path) as (world, _laptop, desktop):
        async with desktop.mounted() as node:
            keeping = trio.Event()
            node.forks.on_step = lambda step: keeping.set() if step == "keeping" else None
            await keeping.wait()
            while not node.forks.all():
                await trio.lowlevel.checkpoint()
            for each in world.swarm.suppliers:
                each.mute.refuses_heads = True
            await trio.sleep(LEASE_S)
            assert node.forks.has_everything
            assert not node.releases.may_release()
            waits_for = node.forks.waits_for
        async with desktop.mounted() as node:
            assert node.forks.waits_for >= waits_for
            for each in world.swarm.suppliers:
                each.mute.refuses_heads = False
            await until(node.releases.may_release)
            assert set(versions(world)[1:]) == {node.publisher.version}


@pytest.mark.slow
async def test_head_of_a_supplier_who_was_given_up_holds_nothing_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path, lost_at=range(1, 6)) as (_world, _laptop, desktop), desktop.mounted() as node:
        await until(lambda: node.forks.trouble)
        assert any("nothing is let go" in line for line in node.forks.lines())
        await trio.sleep(LEASE_S)
        assert not node.releases.may_release()
        give_up_first(desktop)
        await until(node.releases.may_release)
        await until(lambda: not node.forks.trouble)
        (line,) = node.forks.lines()
        assert "was given up" in line
        assert "nothing waits for it" in line


@pytest.mark.slow
async def test_nothing_is_let_go_once_ours_goes_on_beside_a_head_that_was_ahead_at_who_was_given_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """When it was looked at, it went back to our newest, and was not brought in."""
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", b"common")
            assert await laptop.sync() == "safe"
            for each in world.swarm.suppliers[1:]:
                each.mute.refuses_heads = True
            await laptop.write("last", b"of the laptop")
            await brought_to(world, laptop, [1])
            node.holding.has_let_go = True  # it dies, and tells nobody
            laptop.cut()
        for each in world.swarm.suppliers[1:]:
            each.mute.refuses_heads = False
        world.swarm.cut(1)
        await learn_beside(world, desktop)
        desktop.takes_over = True
        async with desktop.mounted(wait=False) as node:
            node.publisher.may_publish = lambda: False
            give_up_first(desktop)
            world.swarm.heal(1)
            await until(lambda: bool(node.publisher.others_uncounted))
            await until(lambda: node.forks.has_everything)
            assert not node.forks.all()
            before = node.publisher.version
            node.publisher.may_publish = lambda: True
            await until(lambda: node.publisher.version > before)
            assert node.forks.all() or not node.releases.may_release()
            assert b"of the laptop" in (await tree_of(node, await brought_in(desktop))).values()
            await until(node.releases.may_release)


@pytest.mark.slow
async def test_head_that_only_a_supplier_shows_who_was_given_up_is_brought_in(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was given up while it was away, and comes back to let go what it still has."""
    async with forked(tmp_path) as (world, _laptop, desktop):
        world.swarm.cut(1)
        async with desktop.mounted(wait=False) as node:
            give_up_first(desktop)
            assert await desktop.sync() == "safe"
            await until(node.releases.may_release)
            world.swarm.heal(1)
            told: list[bool] = []
            node.forks.on_step = lambda _step: told.append(node.releases.may_release())
            generation = await brought_in(desktop)
            assert told
            assert not any(told)
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert not node.publisher.others
            await until(node.releases.may_release)


@pytest.mark.slow
async def test_fork_that_cannot_be_read_is_let_be_when_a_person_says_so(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path, lost_at=range(1, 6)) as (world, _laptop, desktop):
        async with desktop.mounted() as node:
            await until(node.forks.unreadable)
            ((name, unread),) = node.forks.unreadable().items()
            assert unread.why in node.forks.trouble
            assert node.forks.answering(unread) == (5, 5)
            assert node.forks.all() == []
            assert not node.releases.may_release()
            with pytest.raises(NotFound):
                await node.forks.resolve(name)
            with pytest.raises(NotFound):
                await node.forks.let_be(name + "?")
            await node.forks.let_be(name)
            assert node.forks.unreadable() == {}
            await desktop.write("after it", b"after it")
            await until(lambda: set(versions(world)) == {node.publisher.version})
            assert await desktop.sync() == "safe"
            assert node.releases.may_release()
        async with desktop.mounted() as node:
            await until(node.releases.may_release)
            assert not node.publisher.others
            assert node.forks.lines() == []


@pytest.mark.slow
async def test_machine_puts_aside_what_it_wrote_on_a_line_that_was_let_be(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """No supplier can give it back, but the disk of who wrote it has it yet."""
    async with forked(tmp_path, lost_at=range(1, 6)) as (world, laptop, desktop):
        async with desktop.mounted() as node:
            await until(node.forks.unreadable)
            (name,) = node.forks.unreadable()
            await node.forks.let_be(name)
            await desktop.write("after it", b"after it")
            await until(lambda: set(versions(world)) == {node.publisher.version})
            assert await desktop.sync() == "safe"
        with closing(SqliteCatalog(laptop.path)) as old:
            found = await look(world, old, LAPTOP)
            assert found is not None
            plan = await fetch(world, old, found, tmp_path / "new")
        assert [entry.paths for entry in plan.entries] == [(b"both",), (b"the laptop's",)]


@pytest.mark.slow
async def test_fork_that_can_be_read_is_nothing_to_let_be(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted() as node:
        generation = await brought_in(desktop)
        ((snapshot, _fork),) = node.forks.all()
        assert node.forks.unreadable() == {}
        with pytest.raises(NotFound):
            await node.forks.let_be(snapshot.name)
        assert await tree_of(node, generation) == LAPTOPS_TREE


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fetching", "grafting", "keeping"])
async def test_machine_that_let_the_volume_go_grafts_nothing(
    autojump_clock: MockClock, tmp_path: Path, step: str
) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted() as node:
        reached = trio.Event()

        def on_step(at: str) -> None:
            if at == step:
                node.holding.has_let_go = True
                reached.set()

        node.forks.on_step = on_step
        await reached.wait()
        await trio.sleep(LEASE_S)
        assert kinds(desktop.catalog) == ([SnapshotKind.COMING] if step == "keeping" else [])  # a half goes elsewhere


@pytest.mark.slow
async def test_machine_that_follows_shows_a_fork_and_resolves_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Another one took over while it was cut off, and has let go since: what it shows is a newer head."""
    async with forked(tmp_path) as (world, _laptop, desktop), desktop.mounted() as node:
        await brought_in(desktop)
        assert await desktop.sync() == "safe"
        desktop.cut()
        third = Machine(world, tmp_path / "third", THIRD)
        third.takes_over = True
        await learn_beside(world, third)
        async with third.mounted():
            await third.write("the third's", b"of the third")
            assert await third.sync() == "safe"
        desktop.heal()
        await until(lambda: desktop.shows("the third's"))
        ((snapshot, _fork),) = node.forks.all()
        assert any("on the machine that writes" in line for line in node.forks.lines())
        before = desktop.catalog.last_change
        with pytest.raises(ReadOnly):
            await node.forks.resolve(snapshot.name)
        node.journal.commit_now()
        assert desktop.catalog.last_change == before
        assert kinds(desktop.catalog) == [SnapshotKind.FORK]


@pytest.mark.slow
async def test_line_that_takes_long_and_does_not_come_is_not_fetched_most_of_the_time(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its catalog comes each time, of a thief's perhaps, which can never be brought in."""
    takes_s, began = 300.0, list[float]()

    async def fetch_in_vain(_self: Recovery, _restore: Restore, _progress: Progress, **_how: bool) -> None:
        began.append(trio.current_time())
        await trio.sleep(takes_s)
        raise BadFormat(what="it is none that we write")

    async with forked(tmp_path) as (_world, _laptop, desktop):
        monkeypatch.setattr(Recovery, "fetch", fetch_in_vain)
        async with desktop.mounted():
            await until(lambda: began)
            await trio.sleep(40 * takes_s)
            assert 2 <= len(began) <= 5
