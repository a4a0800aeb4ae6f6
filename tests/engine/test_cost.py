"""Work that can be counted: what crosses the network for what is stored, and what is read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from bitdustfs.model import Code
from bitdustfs.testing.world import World

pytestmark = pytest.mark.slow

CODE = Code(3, 5)
CONTENT = random.Random(11).randbytes(12 << 20)  # three full blocks
SPARE = 1.03  # of what must move: seals, padding, headers, and the catalog's copies


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def sent_bytes(world: World) -> int:
    """What all ends of all connections sent so far."""
    return sum(link.sent_bytes for link in world.swarm.network.links())


async def test_little_more_is_sent_than_what_is_stored(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        before = sent_bytes(world)
        await world.write("file", CONTENT)
        assert await world.sync() == "safe"
        assert sent_bytes(world) - before <= len(CONTENT) * CODE.n / CODE.k * SPARE


async def test_little_more_comes_than_what_is_read(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        before = sent_bytes(world)
        assert await world.read("file") == CONTENT
        assert sent_bytes(world) - before <= len(CONTENT) * SPARE
