"""While most suppliers are silent nobody can tell what they hold: what is said then, and who is judged anyway."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import DAY_S, Patience
from bitdustfs.errors import DiskFull
from bitdustfs.model import ROOT_INO, Code, FileState, FragmentName, OwnerId, Root, Standing
from bitdustfs.testing.shelf import BentShelf
from bitdustfs.testing.world import World
from tests.engine.unneeded import until

PATIENCE_S = 90.0
PATIENCE = Patience.of(PATIENCE_S)
CODE = Code(3, 5)
CONTENT = bytes(range(256)) * 2000


class Refusing(BentShelf):
    """It has room, as it says, and takes nothing."""

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        raise DiskFull(path="the shelf")


def standings(world: World) -> list[Standing]:
    return [row.standing for row in world.catalog.suppliers()]


def state_of_letter(world: World) -> FileState:
    inode = world.node.tree.lookup(ROOT_INO, b"letter")
    assert inode is not None
    return world.node.files.state(inode.ino)


@pytest.mark.slow
async def test_nothing_is_called_safe_when_most_have_been_silent_for_long(autojump_clock: MockClock) -> None:
    async with World(code=CODE, patience=PATIENCE).running() as world:
        await world.write("letter", CONTENT)
        assert await world.sync() == "safe"
        for number in (1, 2, 3):
            world.swarm.cut(number)
        await trio.sleep(PATIENCE_S * 0.9)
        assert (await world.status())["state"] == "safe"  # a moment may pass
        await trio.sleep(PATIENCE_S * 0.3)
        said = await world.status()
        assert said["state"] == state_of_letter(world).value == (await world.node.status("/letter"))["state"]
        assert said["state"] == "degraded"
        assert any("nothing is called safe" in sentence for sentence in said["trouble"])
        assert await world.sync() == "degraded"
        assert standings(world) == [Standing.HIRED] * 5  # nobody is given up for that
        for number in (1, 2, 3):
            world.swarm.heal(number)
        await trio.sleep(120)
        assert (await world.status())["state"] == state_of_letter(world).value == "safe"


@pytest.mark.slow
async def test_that_most_are_silent_is_not_forgotten_over_a_restart(autojump_clock: MockClock) -> None:
    world = World(code=CODE, patience=PATIENCE)
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", CONTENT)
            await world.sync()
            for number in (1, 2, 3):
                world.swarm.cut(number)
            await trio.sleep(PATIENCE_S * 2)
        async with world.machine(world.catalog, world.spool, wait=False):
            await trio.sleep(30)
            assert world.node.monitor.is_unsure
            for number in (1, 2, 3):
                world.swarm.heal(number)
            await trio.sleep(120)
            assert world.node.monitor.doubted_s == 0
        async with world.machine(world.catalog, world.spool):
            await trio.sleep(1)
            assert not world.node.monitor.is_unsure


@pytest.mark.slow
async def test_who_went_one_after_another_is_lost_though_few_are_left(autojump_clock: MockClock) -> None:
    patience = Patience.of(600)
    async with World(code=CODE, patience=patience).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        for number in (1, 2, 3):
            world.swarm.cut(number)
            await trio.sleep(200)
        assert world.node.monitor.is_doubtful
        await trio.sleep(300)  # the first two went while others answered
        assert standings(world)[:2] == [Standing.LOST] * 2
        await trio.sleep(900)
        assert standings(world) == [Standing.LOST] * 3 + [Standing.HIRED] * 2
        assert (await world.status())["state"] in ("lost", "local")


@pytest.mark.slow
async def test_nobody_is_judged_while_nobody_answers_at_all(autojump_clock: MockClock) -> None:
    async with World(code=CODE, patience=PATIENCE).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        world.swarm.cut(1)
        await trio.sleep(PATIENCE_S * 0.6)
        for number in (2, 3, 4, 5):
            world.swarm.cut(number)
        await trio.sleep(PATIENCE_S * 10)
        assert standings(world) == [Standing.HIRED] * 5


@pytest.mark.slow
async def test_candidate_that_takes_nothing_does_not_keep_the_next_from_being_hired(
    autojump_clock: MockClock,
) -> None:
    async with World(candidates=2, code=CODE, patience=PATIENCE).running() as world:
        candidate = world.swarm.suppliers[5]
        candidate.kill()
        await trio.sleep(1)
        candidate.shelf = Refusing(candidate.memory_shelf)
        candidate.start()
        await world.write("letter", CONTENT)
        await world.sync()
        world.swarm.cut(5)
        await trio.sleep(PATIENCE_S * 2)
        assert standings(world)[5:] == [Standing.HIRED, Standing.CANDIDATE]
        await trio.sleep(PATIENCE_S * 3)
        assert standings(world)[5:] == [Standing.HIRED, Standing.HIRED]
        assert not world.catalog.wanting_blocks(1)


@pytest.mark.slow
async def test_machine_that_slept_for_weeks_gives_nobody_up_for_that(autojump_clock: MockClock) -> None:
    async with World(candidates=1, code=CODE, patience=PATIENCE).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        world.swarm.suppliers[0].kill()
        await trio.sleep(PATIENCE_S / 3)
        world.swarm.wall.move_s(14 * DAY_S)
        autojump_clock.jump(14 * DAY_S)
        await trio.sleep(PATIENCE_S / 3)
        assert standings(world) == [Standing.HIRED] * 5 + [Standing.CANDIDATE]
        await until(lambda: standings(world) == [Standing.LOST] + [Standing.HIRED] * 5)  # it is away still
