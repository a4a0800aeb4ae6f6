"""Heads that a supplier alone holds, and that nobody saw when a machine was recovered: what they name is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core import replica, wire
from bitdustfs.core.replica import HeadContent
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.ancestors import PAGE
from bitdustfs.model import ROOT_INO
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World, read_whole
from tests.engine.machines import CONTENT, LAPTOP, Machine, two, until
from tests.engine.recovered import recover, stocks
from tests.engine.setback import fetch, look
from tests.engine.test_forks import DESKTOPS_TREE, LAPTOPS_TREE, brought_in, forked, tree_of, versions

NEXT = make_identity("next machine", owner="customer", epoch=2)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def is_swept(machine: Machine) -> bool:
    """Nothing at suppliers is left that the catalog does not name."""
    return machine.catalog.local_value("orphans") == b""


def newest_at(world: World, number: int) -> HeadContent:
    """What is sealed in the head that a supplier holds."""
    raw, _links = heads.split(stocks(world)[number].head)
    return replica.unseal_head(SECRETS, heads.parse(raw).sealed)


async def shown_and_kept(world: World, machine: Machine, generation: int) -> None:
    """The laptop's line is shown, also after all suppliers were gone through and have our head."""
    assert await tree_of(machine.node, generation) == LAPTOPS_TREE
    await machine.write("later", b"later")
    assert await machine.sync() == "safe"
    await until(lambda: is_swept(machine))
    await until(lambda: set(versions(world)) == {machine.node.publisher.version})
    await trio.sleep(600)
    assert await tree_of(machine.node, generation) == LAPTOPS_TREE
    assert machine.node.journal.refusal is None


@pytest.mark.slow
async def test_head_of_before_the_recovery_that_one_supplier_alone_shows_later_is_a_fork_and_lost_by_nobody(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        world.swarm.cut(1)
        machine = Machine(world, tmp_path / "next", NEXT)
        await recover(world, machine.path, NEXT, friend=5)
        async with machine.mounted(wait=False) as node:
            assert await read_whole(node, "both") == DESKTOPS_TREE["both"]
            await machine.write("meanwhile", b"meanwhile")
            assert await machine.sync() == "safe"
            await trio.sleep(600)
            assert not is_swept(machine)
            world.swarm.heal(1)
            await brought_in(machine)
            kept, stray = machine.catalog.last_change, versions(world)[0]
            world.swarm.cut(1)
            await trio.sleep(1)
            world.swarm.heal(1)  # it is asked anew before there is a head that names what came
            await until(lambda: versions(world)[0] != stray)
            assert newest_at(world, 1).change >= kept
            await shown_and_kept(world, machine, await brought_in(machine))


@pytest.mark.slow
async def test_head_of_before_is_not_gone_over_while_what_came_is_made_durable(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        world.swarm.cut(1)
        machine = Machine(world, tmp_path / "next", NEXT)
        await recover(world, machine.path, NEXT, friend=5)
        async with machine.mounted(wait=False) as node:
            await machine.write("meanwhile", b"meanwhile")
            assert await machine.sync() == "safe"
            keeping = trio.Event()
            node.forks.on_step = lambda step: keeping.set() if step == "keeping" else None
            world.swarm.heal(1)
            await keeping.wait()
            while not node.forks.all():
                await trio.lowlevel.checkpoint()
            (stray,) = (each.head for each in node.publisher.others.values())
            assert not node.publisher.keeps(stray)
            assert await machine.sync() == "safe"
            await until(lambda: node.publisher.keeps(stray))


@pytest.mark.slow
async def test_quorum_that_holds_a_head_of_before_the_recovery_stops_nobody_and_its_state_is_shown(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The owner accepted what one of five showed. What counted comes back, and is of an epoch before."""
    async with forked(tmp_path) as (world, _laptop, _desktop):
        for number in (2, 3, 4, 5):
            world.swarm.cut(number)
        machine = Machine(world, tmp_path / "next", NEXT)
        await recover(world, machine.path, NEXT, friend=1)
        for number in (2, 3, 4, 5):
            world.swarm.heal(number)
        async with machine.mounted() as node:
            generation = await brought_in(machine)
            assert await tree_of(node, generation) == DESKTOPS_TREE
            assert await machine.sync() == "safe"
            assert await read_whole(node, "both") == LAPTOPS_TREE["both"]
            await until(lambda: set(versions(world)) == {node.publisher.version} and is_swept(machine))
            assert await tree_of(node, generation) == DESKTOPS_TREE
            assert node.journal.refusal is None


@pytest.mark.slow
async def test_stray_head_is_lost_by_no_home_that_came_from_a_copy(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        world.swarm.cut(1)
        restored = Machine(world, tmp_path / "older", LAPTOP, b"the restored one")
        restored.hire()
        with closing(SqliteCatalog(restored.path)) as old:
            found = await look(world, old, LAPTOP)
            assert found is not None
            await fetch(world, old, found, tmp_path / "newer")
        restored.path = tmp_path / "newer"
        restored.takes_over = True
        async with restored.mounted(wait=False):
            await restored.write("meanwhile", b"meanwhile")
            assert await restored.sync() == "safe"
            await trio.sleep(600)
            assert not is_swept(restored)
            world.swarm.heal(1)
            generation = await brought_in(restored)
            assert await tree_of(restored.node, generation) == LAPTOPS_TREE


async def go_on(world: World, number: int, heads_more: int) -> None:
    """The laptop brings more heads to one supplier only, so that its line has the highest version."""
    supplier = world.swarm.suppliers[number - 1]
    for _ in range(heads_more):
        before = heads.parse(heads.split(stocks(world)[number].head)[0])
        made = heads.sign(
            LAPTOP,
            handle=SECRETS.handle,
            version=before.version + 1,
            previous=before.digest,
            sealed=before.sealed,
            seat=before.seat,
        )
        asked = wire.PutHead(len(made.raw), LAPTOP.certificate.epoch)
        answer, _body = await supplier.keeper.answer(LAPTOP.certificate, asked, made.raw)
        assert isinstance(answer, wire.Done), answer


@pytest.mark.slow
async def test_reader_follows_no_stray_head_whatever_its_version(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        await go_on(world, 1, 20)
        world.swarm.cut(1)
        second = SecondMachine(world, tmp_path / "second")
        found = await second.recover(friend=5)
        async with second.running() as node:
            while len(second.suppliers.online()) < 4:
                await second.suppliers.wait_for_change()
            world.swarm.heal(1)
            while len(second.suppliers.online()) < 5:
                await second.suppliers.wait_for_change()
            await trio.sleep(300)
            assert node.view is not None
            assert node.view.head is not None
            assert node.view.head.version == found.head.version < versions(world)[0]
            assert await second.read("both") == DESKTOPS_TREE["both"]


@pytest.mark.slow
async def test_reader_that_shows_a_stray_head_goes_over_to_the_line_that_a_quorum_is_seen_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        await go_on(world, 1, 20)
        for number in (2, 3, 4, 5):
            world.swarm.cut(number)
        second = SecondMachine(world, tmp_path / "second")
        found = await second.recover()
        assert found.head.version == versions(world)[0]
        for number in (2, 3, 4, 5):
            world.swarm.heal(number)
        async with second.running() as node:
            await until(lambda: node.view is not None and node.publisher.version == versions(world)[1])
            await trio.sleep(300)
            assert node.publisher.version == versions(world)[1]
            assert {name: await second.read(name) for name in DESKTOPS_TREE} == DESKTOPS_TREE
            assert node.tree.lookup(ROOT_INO, b"the laptop's") is None


@pytest.mark.slow
async def test_supplier_that_was_away_since_before_a_line_was_gone_over_holds_no_fork(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Who held that line shows its links, which are more than ours; a machine that recovers goes by ours."""
    async with forked(tmp_path) as (world, _laptop, desktop):
        await go_on(world, 1, 20)
        world.swarm.cut(5)
        async with desktop.mounted(wait=False) as node:
            await desktop.write("later", b"later")
            assert await desktop.sync() == "degraded"
            await brought_in(desktop)
            await node.forks.resolve(node.forks.all()[0][0].name)
            await until(lambda: set(versions(world)[:4]) == {node.publisher.version})
        other = Machine(world, tmp_path / "other", desktop.identity)
        await recover(world, other.path, other.identity)
        other.takes_over = True
        world.swarm.heal(5)
        async with other.mounted() as node:
            await until(lambda: len(set(versions(world))) == 1)
            assert not node.publisher.others
            assert not node.forks.all()


async def many_heads(machine: Machine, count: int) -> None:
    """Make heads that name nothing new."""
    content = machine.node.publisher.content
    assert content is not None
    for _ in range(count):
        await machine.node.publisher.publish(content)


@pytest.mark.slow
async def test_head_of_before_the_recovery_that_no_link_and_no_mark_leads_to_is_a_fork_however_old_it_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, _desktop):
        world.swarm.cut(1)
        machine = Machine(world, tmp_path / "next", NEXT)
        await recover(world, machine.path, NEXT, friend=5)
        async with machine.mounted(wait=False) as node:
            assert await machine.sync() == "safe"
            await many_heads(machine, 2 * PAGE)
            assert await machine.sync() == "safe"
            await node.journal.durable()
        with closing(SqliteCatalog(machine.path)) as catalog:
            catalog.drop_links(node.publisher.version)  # as after a recovery, or very long
            catalog.commit()
        async with machine.mounted(wait=False):
            world.swarm.heal(1)
            await shown_and_kept(world, machine, await brought_in(machine))


@pytest.mark.slow
@pytest.mark.parametrize("is_revoked", [False, True])
async def test_supplier_that_was_away_for_longer_than_links_last_holds_no_fork(
    autojump_clock: MockClock, tmp_path: Path, is_revoked: bool
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", CONTENT)
            assert await laptop.sync() == "safe"
            world.swarm.cut(5)
            await many_heads(laptop, heads.KEPT_LINKS + PAGE)
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"
            laptop.cut()
        stray = versions(world)[4]
        machine = Machine(world, tmp_path / "next", NEXT) if is_revoked else desktop
        await recover(world, machine.path, machine.identity)
        machine.takes_over = True
        async with machine.mounted(wait=False) as node:
            await machine.write("meanwhile", b"meanwhile")
            assert await machine.sync() == "safe"
            assert not machine.catalog.links(0, stray + 1)
            world.swarm.heal(5)
            await until(lambda: len(node.suppliers.online()) == 5)
            await trio.sleep(600)
            assert not node.publisher.others
            assert not node.forks.all()
            assert node.releases.may_release()
            assert versions(world)[4] == (node.publisher.version if is_revoked else stray)
