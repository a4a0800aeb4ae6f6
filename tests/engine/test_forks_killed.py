"""A machine dies while a line that nobody can read is let be: it is given up wholly, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.fork_notes import gone_over
from tests.engine.bodies import Body
from tests.engine.machines import until
from tests.engine.test_forks import forked, versions

pytestmark = pytest.mark.slow


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("after_s", [0.0, 3.0, 60.0])
async def test_line_is_given_up_wholly_or_not_at_all_when_the_machine_dies(
    autojump_clock: MockClock, tmp_path: Path, after_s: float, power: bool
) -> None:
    async with (
        forked(tmp_path, lost_at=range(1, 6)) as (world, _laptop, desktop),
        trio.open_nursery() as nursery,
    ):
        body = Body(world, desktop)
        body.world_nursery = nursery
        assert await body.mount(nursery, takes_over=True, patience_s=5) == "held"
        await until(desktop.node.forks.unreadable)
        (name,) = desktop.node.forks.unreadable()

        async def choose() -> None:
            with body.person():
                await desktop.node.forks.let_be(name)

        nursery.start_soon(choose)
        await (trio.sleep(after_s) if after_s else trio.lowlevel.checkpoint())
        await body.kill(power=power)

        assert await body.mount(nursery, takes_over=True, patience_s=5) == "held"
        await until(lambda: desktop.node.forks.unreadable() or gone_over(desktop.catalog))
        assert after_s == 0 or gone_over(desktop.catalog)
        if not gone_over(desktop.catalog):
            await desktop.node.forks.let_be(name)
        await until(lambda: set(versions(world)) == {desktop.node.publisher.version})
        assert await desktop.sync() == "safe"
        assert desktop.node.forks.unreadable() == {}
        assert desktop.shows("the desktop's")
        await until(desktop.node.releases.may_release)
        await body.umount()
