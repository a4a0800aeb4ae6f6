"""A machine that began to bring a line in lets the volume go, and who holds that line is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.grafting import Grafting
from bitdustfs.model import SnapshotKind
from bitdustfs.testing.swarm import make_identity
from tests.engine.machines import Machine, until
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, forked, learn_beside, tree_of

THIRD = make_identity("third", owner="customer")


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def halves(machine: Machine) -> list[int]:
    """The generations of what came half."""
    return [each.generation for each in machine.catalog.snapshots() if each.kind is SnapshotKind.COMING]


@pytest.mark.slow
async def test_half_of_a_line_keeps_what_it_named_until_who_holds_that_line_is_heard(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Grafting.run

    async def run_on(self: Grafting, generation: int, of: int = 0) -> None:
        await run(self, generation, of)
        await trio.sleep(600)  # of a large tree

    async with forked(tmp_path) as (world, _laptop, desktop):
        desktop.takes_over = True
        with monkeypatch.context() as patched:
            patched.setattr(Grafting, "run", run_on)
            async with desktop.mounted(wait=False) as node:
                await until(lambda: halves(desktop))
                await trio.sleep(60)
                world.swarm.cut(1)
                await desktop.write("later", b"later")
                assert await desktop.sync() == "safe"
                node.holding.has_let_go = True
                await node.journal.durable()
        third = Machine(world, tmp_path / "third", THIRD, b"a third seat 16b")
        await learn_beside(world, third)
        third.takes_over = True
        async with third.mounted(wait=False) as node:
            assert halves(third)
            await third.write("more", b"more")
            assert await third.sync() == "safe"
            await trio.sleep(3600)
            status = await node.status()
            assert [(each["what"], each["supplier"]) for each in status["waits_for"]] == [("parts", "s1")]
            (told,) = (line for line in status["trouble"] if "a part of another state" in line)
            assert "until s1, which does not answer, has shown" in told and "`bitdustfs suppliers leave s1`" in told
            world.swarm.heal(1)
            generation = await brought_in(third)
            await until(lambda: not halves(third))
            status = await node.status()
            assert status["waits_for"] == [] and not any("a part of" in line for line in status["trouble"])
            assert await tree_of(node, generation) == LAPTOPS_TREE
