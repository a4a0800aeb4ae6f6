"""Work that can be counted: what crosses the network for what is stored, and what is read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import CHUNK_BYTES, LEAF_BYTES, ROOT_INO, Code
from bitdustfs.testing.network import Line
from bitdustfs.testing.world import World

pytestmark = pytest.mark.slow

CODE = Code(3, 5)
CONTENT = random.Random(11).randbytes(12 << 20)  # a full block, and half a one
READ_BYTES = 512 * 1024
SPARE = 1.03  # of what must move: seals, padding, headers, and the catalog's copies


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Counted:
    """Another port, whose calls are counted by name."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._port, name)


def sent_bytes(world: World) -> int:
    """What all ends of all connections sent so far."""
    return sum(link.sent_bytes for link in world.swarm.network.links())


async def test_little_more_is_sent_than_what_is_stored(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        before = sent_bytes(world)
        await world.write("file", CONTENT)
        assert await world.sync() == "safe"
        assert sent_bytes(world) - before <= len(CONTENT) * CODE.n / CODE.k * SPARE


async def test_block_is_looked_up_once_for_all_its_chunks(autojump_clock: MockClock) -> None:
    ports: dict[str, Counted] = {}

    def coat(name: str, port: Any) -> Any:
        return ports.setdefault(name, Counted(port)) if name == "catalog" else port

    async with World(code=CODE, coat=coat).running() as world:
        await world.write("file", CONTENT)
        ports["catalog"].calls.clear()
        assert await world.sync() == "safe"
        assert ports["catalog"].calls["block"] < len(CONTENT) // CHUNK_BYTES // 2


async def test_little_more_comes_than_what_is_read(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        before = sent_bytes(world)
        assert await world.read("file") == CONTENT
        assert sent_bytes(world) - before <= len(CONTENT) * SPARE


async def test_cold_chunk_costs_few_lookups_and_is_not_read_back_from_the_spool(autojump_clock: MockClock) -> None:
    ports: dict[str, Counted] = {}

    def coat(name: str, port: Any) -> Any:
        return ports.setdefault(name, Counted(port)) if name in ("catalog", "spool") else port

    async with World(code=CODE, coat=coat).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        await world.node.drop_cache()
        for port in ports.values():
            port.calls.clear()
        assert await read_in_large_steps(world, "file") == CONTENT
        chunks = len(CONTENT) // CHUNK_BYTES
        assert ports["spool"].calls["read"] == 0
        assert sum(ports["catalog"].calls[name] for name in ("placed", "map_rows", "chunk")) <= 2 * chunks


async def read_in_large_steps(world: World, name: str) -> bytes:
    """A file of the root directory, as the kernel reads it ahead."""
    inode = world.node.tree.lookup(ROOT_INO, name.encode())
    assert inode is not None
    steps = range(0, inode.size, READ_BYTES)
    return b"".join([await world.node.files.read(inode.ino, at, READ_BYTES) for at in steps])


@pytest.mark.parametrize(("order", "most"), [("written", 0.04), ("mixed", 0.1)])
async def test_small_files_that_were_written_together_cost_few_round_trips(
    autojump_clock: MockClock, order: str, most: float
) -> None:
    ports: dict[str, Counted] = {}

    def coat(name: str, port: Any) -> Any:
        return ports.setdefault(name, Counted(port)) if name == "suppliers" else port

    small = {f"f{number}": random.Random(number).randbytes(4096) for number in range(400)}
    async with World(code=CODE, coat=coat).running() as world:
        for name, content in small.items():
            await world.write(name, content)
        await world.sync()
        await world.node.drop_cache()
        names = list(small)
        if order == "mixed":
            random.Random(1).shuffle(names)
        ports["suppliers"].calls.clear()
        before = sent_bytes(world)
        for name in names:
            assert await world.read(name) == small[name]
        assert ports["suppliers"].calls["get"] <= len(small) * most
        assert sent_bytes(world) - before <= 2 * sum(map(len, small.values()))


async def test_who_reads_a_few_of_many_small_files_fetches_little_of_them(autojump_clock: MockClock) -> None:
    small = {f"f{number}": random.Random(number).randbytes(4096) for number in range(400)}
    async with World(code=CODE).running() as world:
        for name, content in small.items():
            await world.write(name, content)
        await world.sync()
        await world.node.drop_cache()
        before = sent_bytes(world)
        for name in random.Random(2).sample(list(small), 6):
            assert await world.read(name) == small[name]
        await trio.sleep(1)  # whatever was begun ends
        assert sent_bytes(world) - before <= (2 * 6 + 6 * 6) * LEAF_BYTES


async def test_looks_at_small_files_now_and_then_fetch_no_others(autojump_clock: MockClock) -> None:
    small = {f"f{number}": random.Random(number).randbytes(4096) for number in range(400)}
    async with World(code=CODE).running() as world:
        for name, content in small.items():
            await world.write(name, content)
        await world.sync()
        await world.node.drop_cache()
        before = sent_bytes(world)
        for name in list(small)[::40]:
            assert await world.read(name) == small[name]
            await trio.sleep(60)
        assert sent_bytes(world) - before <= (2 * 10 + 4) * LEAF_BYTES


async def test_small_files_are_here_before_who_reads_them_in_order_comes_to_them(autojump_clock: MockClock) -> None:
    small = {f"f{number}": random.Random(number).randbytes(4096) for number in range(400)}
    async with World(code=CODE).running() as world:
        for name, content in small.items():
            await world.write(name, content)
        await world.sync()
        await world.node.drop_cache()
        for supplier in world.swarm.suppliers:
            world.swarm.network.set_line(world.swarm.identity.node, supplier.node, Line(latency_s=0.05))
        began = trio.current_time()
        for name in small:
            assert await world.read(name) == small[name]
        assert trio.current_time() - began <= len(small) * 0.1 / 20  # a round trip for twenty of them
