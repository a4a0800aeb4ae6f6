"""What `status` promises, where one writes and where one only reads, is never more than what suppliers hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.model import Standing
from bitdustfs.testing.second import SecondMachine
from bitdustfs.testing.world import World
from tests.engine.machines import CODE, CONTENT, takes_its_time, until


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def test_reader_speaks_of_the_blocks_of_files_in_the_tree_that_it_shows(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Of a delta three copies are enough for a head, which says who has it: where the others went, no head says."""
    async with World(code=CODE).running() as world:
        await world.write("first", b"first")
        await world.sync()
        second = SecondMachine(world, tmp_path / "catalog.db")
        await second.recover()
        async with second.running() as reader:
            for number in (4, 5):
                takes_its_time(world, number, 0.2)
            await world.write("file", CONTENT)
            assert await world.sync() == "safe"
            assert reader.view is not None
            await reader.view.wait_until(world.node.publisher.version)
            told = await reader.status()
            assert (told["held"], told["needed"], told["wanted"], told["margin"]) == (5, 3, 5, 2)
            assert (told["missing_fragments"], told["missing_bytes"]) == (0, 0)
            then = await reader.without("s1")
            assert (then["held"], then["needed"], then["wanted"], then["margin"]) == (4, 3, 5, 1)


@dataclass
class Left:
    """What an older state still has."""

    left: int
    trouble: str = ""
    is_gone: bool = False


@pytest.mark.parametrize(("number", "words"), [(1, "1 file {} is not"), (2, "2 files {} are not")])
async def test_number_of_files_that_are_not_put_aside_agrees_with_its_words(
    autojump_clock: MockClock, number: int, words: str
) -> None:
    async with World(code=CODE).running() as world:
        world.node.reporter.aside = [Left(number)]
        told = (await world.status())["trouble"]
        assert told[0] == words.format("of this machine's older state") + " put aside yet"


@pytest.mark.slow
async def test_what_lost_suppliers_held_is_made_again_is_said_while_it_is(autojump_clock: MockClock) -> None:
    async with World(code=CODE, candidates=1, patience=Patience.of(600)).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        world.swarm.suppliers[0].kill()
        await until(lambda: world.catalog.suppliers()[0].standing is Standing.LOST)
        said = "lost, so what they held is made again elsewhere: s1"
        assert said in (await world.status())["trouble"]
        await until(lambda: not world.node.reporter.missing_fragments())
        told = await world.status()
        assert told["trouble"] == []
        assert told["suppliers"][0]["state"] == "lost"
