"""A person chooses before the newest of the other line was seen: it goes on, and lets go what was shown of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.fork_verbs import fork_verbs
from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.publisher import OTHERS_S
from bitdustfs.errors import Unavailable
from bitdustfs.model import ROOT_INO, Code
from bitdustfs.testing.network import Break
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import World
from tests.engine.machines import DESKTOP, LAPTOP, LEASE_S, Machine, until
from tests.engine.setback import look
from tests.engine.test_forks import (
    LAPTOPS_TREE,
    broken,
    brought_in,
    brought_to,
    forked,
    fragments,
    learn_beside,
    tree_of,
    versions,
)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
async def test_a_line_that_was_chosen_about_and_went_on_is_shown_as_it_is_now(
    autojump_clock: MockClock, tmp_path: Path, early: bool
) -> None:
    async with forked(tmp_path) as (world, laptop, desktop):
        desktop.takes_over = True
        async with desktop.mounted(wait=False):
            await brought_in(desktop)
            assert await desktop.sync() == "safe"
            await desktop.write("not for long", b"n" * 100_000)
            assert await desktop.sync() == "safe"
        async with laptop.mounted(wait=False) as node:
            generation = await brought_in(laptop)
            assert "not for long" in await tree_of(node, generation)
            await node.journal.durable()
        async with desktop.mounted(wait=False) as node:
            await until(lambda: node.publisher.confirmed)
            held = fragments(world)
            node.tree.unlink(ROOT_INO, b"not for long")
            assert await desktop.sync() == "safe"
            await until(lambda: held - fragments(world))
            await trio.sleep(600)
            for supplier in world.swarm.suppliers[3:]:
                supplier.mute.refuses_heads = True
            await desktop.write("the newest", b"n" * 100_000)
            assert await desktop.sync() == "placed"
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = False
        assert await look(world, SqliteCatalog(laptop.path), LAPTOP) is None
        async with laptop.mounted(wait=False) as node:
            if early:
                ((snapshot, _fork),) = node.forks.all()
                await node.forks.resolve(snapshot.name)
            await until(lambda: len(node.publisher.others) == 4 and node.forks.has_everything)
            await trio.sleep(LEASE_S)
            for snapshot, _fork in node.forks.all():
                await node.forks.resolve(snapshot.name)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            await trio.sleep(3600)
            assert await laptop.sync() == "safe"
            assert not broken(laptop.catalog)
            kept = [await tree_of(node, each.generation) for each in laptop.catalog.snapshots() if not each.is_gone]
            assert any("the newest" in each for each in kept)


@asynccontextmanager
async def both_write(directory: Path) -> AsyncIterator[tuple[World, Machine, Machine, trio.Event]]:
    """The desktop took over from the laptop, which goes on at the first supplier, and both are mounted.

    The first supplier lets the desktop hold the volume when the event is set.
    """
    async with World(code=Code(1, 5)).hired() as world:
        laptop, desktop = Machine(world, directory / "laptop"), Machine(world, directory / "desktop", DESKTOP)
        laptop.hire()
        lets = trio.Event()
        first, *others = world.swarm.suppliers
        holds_late(first, desktop, lets)
        async with laptop.mounted():
            await laptop.write("file", b"common")
            assert await laptop.sync() == "safe"
            await learn_beside(world, desktop)
            change = world.swarm.network.apply
            change(Break.CUT, DESKTOP.node, first.node)
            for each in others:
                change(Break.CUT, LAPTOP.node, each.node)
            await laptop.write("the laptop's", b"of the laptop")
            await brought_to(world, laptop, (1,))
            desktop.takes_over = True
            async with desktop.mounted(wait=False):
                await desktop.write("the desktop's", b"of the desktop")
                await brought_to(world, desktop, (2, 3, 4, 5))
                change(Break.HEAL, DESKTOP.node, first.node)
                yield world, laptop, desktop, lets


def holds_late(supplier: SupplierNode, machine: Machine, when: trio.Event) -> None:
    """Have a supplier not answer when a machine asks to hold the volume, until then."""
    answer = supplier.mute.answer

    async def late(
        caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if isinstance(request, wire.Hold) and caller.node == machine.identity.node:
            await when.wait()
        return await answer(caller, request, body)

    supplier.mute.answer = late  # type: ignore[method-assign]


@pytest.mark.slow
async def test_what_the_other_one_brought_until_it_could_no_more_is_shown_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A supplier showed its head, took another one, and only then let this machine hold the volume."""
    async with both_write(tmp_path) as (world, laptop, desktop, lets):
        await brought_in(desktop)
        await laptop.write("the last", b"of the laptop")
        await brought_to(world, laptop, (1,))
        lets.set()
        with trio.fail_after(OTHERS_S / 6):
            while desktop.node.forks.all()[0][1].version < versions(world)[0]:
                await trio.sleep(0.1)
        await desktop.node.forks.resolve(desktop.node.forks.all()[0][0].name)
        with trio.fail_after(OTHERS_S / 6):
            await desktop.node.replica.make_safe()


@pytest.mark.slow
async def test_who_chooses_about_a_line_that_has_gone_on_is_told_so_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was waited for a head that cannot come, and said that suppliers do not have it yet."""
    async with both_write(tmp_path) as (world, laptop, desktop, _lets):
        node = desktop.node
        generation = await brought_in(desktop)
        await laptop.write("the last", b"of the laptop")
        await brought_to(world, laptop, (1,))
        verbs, name = fork_verbs(node), node.forks.all()[0][0].name
        with trio.fail_after(OTHERS_S / 6), pytest.raises(Unavailable, match="choose again"):
            await verbs["resolve"]({"name": name}, say_nothing)
        ((snapshot, fork),) = node.forks.all()
        assert snapshot.generation > generation
        assert fork.version == versions(world)[0]
        assert "the last" in await tree_of(node, snapshot.generation)


async def say_nothing(_step: object) -> None:
    return


@pytest.mark.slow
async def test_machine_that_was_recovered_keeps_the_line_that_was_chosen_about_though_a_newer_head_of_it_comes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It does not know yet that a head over that line is safe: who has it is away."""
    async with forked(tmp_path, strays=2, goes_on=True) as (world, _laptop, desktop):
        world.swarm.cut(2)
        async with desktop.mounted(wait=False) as node:
            generation = await brought_in(desktop)
            await node.forks.resolve(node.forks.all()[0][0].name)
            await desktop.write("after it", b"after it")
            await until(lambda: set(versions(world)[:1] + versions(world)[2:]) == {node.publisher.version})
            assert await desktop.sync() == "safe"
        other = Machine(world, tmp_path / "other", DESKTOP)
        await learn_beside(world, other)
        for number in (4, 5):
            world.swarm.cut(number)
        world.swarm.heal(2)
        other.takes_over = True
        async with other.mounted(wait=False) as node:
            await brought_in(other)
            assert [each.generation for each in node.snapshots.all()] == [generation]
            assert await tree_of(node, generation) == LAPTOPS_TREE


@pytest.mark.slow
async def test_what_a_person_chose_about_while_a_newer_head_of_it_came_stays_once_it_is_safe(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = Grafting.run, list[int]()

    async def run_on(self: Grafting, generation: int, of: int = 0) -> None:
        await run(self, generation, of)
        begun.append(generation)
        await trio.sleep(600)  # of a large tree

    async with forked(tmp_path, strays=2, goes_on=True) as (world, _laptop, desktop):
        world.swarm.cut(2)
        async with desktop.mounted(wait=False) as node:
            generation = await brought_in(desktop)
            monkeypatch.setattr(Grafting, "run", run_on)
            world.swarm.heal(2)
            await until(lambda: begun)
            await node.forks.resolve(node.forks.all()[0][0].name)
            assert await desktop.sync() == "safe"
            assert await brought_in(desktop) != generation
            assert [each.generation for each in node.snapshots.all()] == [generation]
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert not broken(desktop.catalog)
