"""A fault in a background service costs that service a moment, and nobody a byte (I12)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import DURABLE_S, SETTLE_S
from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.model import ROOT_INO, BlockNo, Code, FragmentState, Ino
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import World

CONTENT = random.Random(9).randbytes(100_000)
A_WHILE_S = 60.0


class Trap:
    """A coat around a port. One call of the method that is armed, by the victim, fails as code with a bug does."""

    def __init__(self, real: Any, victim: str) -> None:
        self._real = real
        self._victim = victim
        self.armed = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name != self.armed or service_here() != self._victim:
            return found

        def fail(*_args: object, **_kwargs: object) -> None:
            self.armed = ""
            raise ZeroDivisionError(f"{name} with a bug")

        return fail


def service_here() -> str:
    """The service that the running task works for; "": none."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        kind, _, name = task.name.partition(" ")
        if kind == "service":
            return name
        task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
    return ""


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def write_something(world: World) -> None:
    await world.write("more", CONTENT)


async def delete_something(world: World) -> None:
    world.node.tree.unlink(ROOT_INO, b"old")


async def lose_a_connection(world: World) -> None:
    world.swarm.cut(1)
    world.swarm.heal(1)


async def read_from_a_silent_supplier(world: World) -> None:
    world.swarm.silence(1)
    await world.node.drop_cache()
    with trio.move_on_after(0.1):
        await world.read("file")


async def write_while_nobody_takes_it(world: World) -> None:
    for number in range(1, 6):
        world.swarm.cut(number)
    await world.write("more", CONTENT)
    await trio.sleep(A_WHILE_S)
    for number in range(1, 6):
        world.swarm.heal(number)


async def recover_here(world: World) -> None:
    expect_orphans(world.catalog)


async def let_one_leave(world: World) -> None:
    world.node.drainer.leave("s1")


async def lose_a_supplier_for_a_while(world: World) -> None:
    world.swarm.suppliers[0].kill()
    await trio.sleep(A_WHILE_S)
    world.swarm.suppliers[0].start()


async def lose_a_fragment(world: World) -> None:
    (block,) = world.catalog.blocks(after=BlockNo(0), limit=1)
    row = world.catalog.fragments(block.block)[0]
    world.catalog.put_fragment(replace(row, state=FragmentState.LOST))


async def do_nothing(_world: World) -> None:
    return


# service -> (port, method that fails, what makes the service call it)
FAULTS: dict[str, tuple[str, str, Callable[[World], Any]]] = {
    "journal": ("catalog", "checkpoint", write_something),
    "suppliers": ("entropy", "bytes", lose_a_connection),
    "files": ("spool", "remove", delete_something),
    "hardener": ("spool", "harden", write_while_nobody_takes_it),
    "uploads": ("catalog", "uploads", do_nothing),
    "releases": ("catalog", "releases", do_nothing),
    "collector": ("catalog", "loose_chunks", do_nothing),
    "compactor": ("catalog", "sparse_blocks", do_nothing),
    "follower": ("catalog", "blocks", do_nothing),
    "recoder": ("catalog", "marked_blocks", do_nothing),
    "reads": ("catalog", "fragments", read_from_a_silent_supplier),
    "writer": ("catalog", "suppliers", write_something),
    "monitor": ("suppliers", "take_speeds", do_nothing),
    "auditor": ("catalog", "audits", do_nothing),
    "returns": ("suppliers", "names", lose_a_supplier_for_a_while),
    "rebuilder": ("catalog", "blocks_for", lose_a_fragment),
    "trimmer": ("catalog", "crowded_blocks", do_nothing),
    "drainer": ("suppliers", "get", let_one_leave),
    "register": ("suppliers", "binding", do_nothing),
    "holding": ("suppliers", "hold", do_nothing),
    "publisher": ("suppliers", "revoked_in", do_nothing),
    "forks": ("catalog", "snapshots", do_nothing),
    "replica": ("catalog", "outbox", write_something),
    "orphans": ("suppliers", "names", recover_here),
    "volume snapshots": ("catalog", "snapshots", do_nothing),
}


async def test_table_of_faults_is_complete(autojump_clock: MockClock) -> None:
    async with World(suppliers=1).running() as world:
        assert set(world.node.services) == set(FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("service", FAULTS)
async def test_failed_service_is_started_again_and_nothing_is_lost(autojump_clock: MockClock, service: str) -> None:
    port, method, provoke = FAULTS[service]
    traps: dict[str, Trap] = {}

    def set_trap(name: str, real: object) -> Trap:
        return traps.setdefault(name, Trap(real, service))

    audits_a_day = 20_000 if service == "auditor" else 16
    patience = Patience.of(A_WHILE_S / 3) if service in ("returns", "trimmer") else None
    suppliers = 6 if service == "drainer" else 5
    async with World(
        suppliers=suppliers, code=Code(3, 5), coat=set_trap, audits_a_day=audits_a_day, patience=patience
    ).running() as world:
        await world.write("file", CONTENT)
        await world.write("old", CONTENT)
        await world.sync()
        trap = traps[port]
        trap.armed = method
        await provoke(world)
        await trio.sleep(A_WHILE_S)
        assert trap.armed == "", "the fault was never met"
        assert any(f"'{service}' failed" in sentence for sentence in (await world.status())["trouble"])
        await world.write("after", CONTENT)
        assert await world.sync() == "safe"
        await world.node.drop_cache()
        assert await world.read("file") == await world.read("after") == CONTENT


class Hanging(MemorySpool):
    """A spool on a disk that never answers a sync of one of its files."""

    async def harden(self, ino: Ino) -> None:
        await trio.sleep_forever()


class Watched(SqliteCatalog):
    """A catalog that tells when it was made durable."""

    hardened_at = -1.0

    async def harden(self) -> None:
        await super().harden()
        self.hardened_at = trio.current_time()


async def test_names_are_durable_at_the_end_although_the_bytes_of_a_file_never_are(autojump_clock: MockClock) -> None:
    catalog, spool = Watched(":memory:", create=True), Hanging()
    async with World(suppliers=1).hired() as world:
        async with world.machine(catalog, spool, wait=False):
            await world.write("file", CONTENT)
            await trio.sleep(2)  # so that the hardener's own turn is not at the end as well
            left_at = trio.current_time()
        assert catalog.hardened_at >= left_at + SETTLE_S
        assert trio.current_time() <= left_at + SETTLE_S + DURABLE_S
