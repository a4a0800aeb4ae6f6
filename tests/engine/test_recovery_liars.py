"""Recovery while one supplier shows an old head, one gives wrong bytes, and one is gone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.head import Head
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import Code
from bitdustfs.testing.shelf import Bend, garbage, half, other_fragment
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import World
from tests.engine.recovered import recover

CODE = Code(3, 5)
DICE = random.Random(13)
FILES = {f"file {number}": DICE.randbytes(size) for number, size in enumerate((100, 20_000, 300_000, 700_000))}
SECOND = make_identity("second machine", owner="customer", epoch=2)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def set_back(world: World, number: int, kept: bytes) -> None:
    """Let a supplier come up with another head than it had."""
    supplier = world.swarm.suppliers[number - 1]
    supplier.kill()
    await trio.sleep(1)
    supplier.contracts.save_head(world.swarm.identity.owner, kept)
    supplier.start()


async def written(world: World) -> tuple[bytes, Head]:
    """All files, safe. Returns what supplier 1 held when only the first was there, and the newest head."""
    names = list(FILES)
    await world.write(names[0], FILES[names[0]])
    await world.sync()
    old = world.swarm.suppliers[0].contracts.heads()[world.swarm.identity.owner]
    for name in names[1:]:
        await world.write(name, FILES[name])
    assert await world.sync() == "safe"
    assert world.node.publisher.head is not None
    return old, world.node.publisher.head


async def contents(world: World, path: Path) -> dict[str, bytes]:
    """What the second machine reads, each file from suppliers."""
    with closing(SqliteCatalog(path)) as catalog:
        async with world.machine(catalog, MemorySpool(), identity=SECOND, wait=False) as node:
            while len(node.suppliers.online()) < CODE.n - 1:
                await node.suppliers.wait_for_change()
            return {name: await world.read(name) for name in FILES}


@pytest.mark.slow
@pytest.mark.parametrize("bend", [garbage, half, other_fragment])
async def test_tree_comes_back_past_an_old_head_wrong_bytes_and_a_gap(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, bend: Bend, tmp_path: Path
) -> None:
    world = World(code=CODE)
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            old, newest = await written(world)
        await set_back(world, 1, old)
        world.swarm.suppliers[1].shelf.bend = bend
        world.swarm.suppliers[2].kill()
        found = await recover(world, tmp_path / "catalog", SECOND, friend=1)  # who tells the old one is asked first
        assert found.head.version >= newest.version
        assert (found.answered, found.confirming, found.is_certain) == (4, 3, True)
        assert await contents(world, tmp_path / "catalog") == FILES


@pytest.mark.slow
async def test_supplier_whose_head_is_garbage_counts_as_one_that_did_not_answer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    world = World(code=CODE)
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            old, _ = await written(world)
        await set_back(world, 1, old)
        await set_back(world, 2, DICE.randbytes(700))
        world.swarm.suppliers[2].kill()
        found = await recover(world, tmp_path / "catalog", SECOND, friend=1)
        assert (found.answered, found.confirming, found.is_certain) == (3, 2, True)
        assert set(found.silent) == {"s2", "s3"}
        assert await contents(world, tmp_path / "catalog") == FILES
