"""Before a mount: what is waited for is said, and the waiting ends when it is told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.claiming import SAY_S, Claim, claim_volume
from bitdustfs.cli.waiting import WAITING, shown_waiting
from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.claim import Claimed, claim
from bitdustfs.engine.errand import ask_once
from bitdustfs.errors import InUse
from bitdustfs.model import NodeId
from bitdustfs.testing.world import SECRETS, World
from tests.engine.machines import CODE, CONTENT, COPY, DESKTOP, LAPTOP, LEASE_S, SEAT, two

MOST_S = 3.5 * SAY_S
SHOWN_S = 60.0


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def held_by_the_laptop(world: World) -> None:
    dialer = world.swarm.network.dialer(LAPTOP.node)
    rows = world.catalog.suppliers()
    ended = await claim(dialer, LAPTOP, rows, seat=SEAT, lease_s=LEASE_S, waits=lambda _told: False)
    assert ended is Claimed.HELD


async def claims_on_the_desktop(world: World, say: Callable[[str], None]) -> None:
    dialer = world.swarm.network.dialer(DESKTOP.node)
    rows = world.catalog.suppliers()
    await claim_volume(DESKTOP, rows, b"seat of a desk..", takes_over=False, most_s=MOST_S, dialer=dialer, say=say)


async def wishes(world: World) -> set[bytes]:
    """Who wishes to write, as suppliers tell the laptop."""
    dialer, request = world.swarm.network.dialer(LAPTOP.node), wire.Hold(SEAT, LEASE_S, False, False, False)
    told = [
        await ask_once(dialer, LAPTOP, NodeId(row.node), row.address, request, wire.Holds)
        for row in world.catalog.suppliers()
    ]
    return {answer.wished_by for answer, _ in told}


async def held_for(world: World, asker: Identity) -> bytes:
    """Who holds the volume at the last supplier, as it tells somebody else."""
    dialer, row = world.swarm.network.dialer(asker.node), world.catalog.suppliers()[-1]
    request = wire.Hold(COPY, LEASE_S, False, False, False)
    return (await ask_once(dialer, asker, NodeId(row.node), row.address, request, wire.Holds))[0].node


async def test_who_waits_is_told_at_once_and_again_what_for_and_how_long(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        await held_by_the_laptop(world)
        said: list[tuple[float, str]] = []
        began_s = trio.current_time()
        with pytest.raises(InUse, match="does not let it go"):
            await claims_on_the_desktop(world, lambda line: said.append((trio.current_time() - began_s, line)))
        assert [round(at_s / SAY_S) for at_s, _ in said] == [0, 1, 2, 3]
        assert all(line.startswith(WAITING) and "--take-over" in line for _, line in said)
        assert f"{MOST_S:.0f} s at most" in said[0][1]
        assert "suppliers keep the volume for it" in said[1][1]


async def test_copy_of_the_home_of_who_writes_is_told_so_and_leaves_no_wish(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        await held_by_the_laptop(world)
        dialer = world.swarm.network.dialer(LAPTOP.node)
        (told,) = await claim_volume(LAPTOP, world.catalog.suppliers(), COPY, takes_over=False, dialer=dialer)
        assert "A copy of this home" in told
        assert "is read-only" in told
        assert await wishes(world) == {b""}


async def test_signal_ends_the_waiting_and_the_wish(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        await held_by_the_laptop(world)

        def interrupt(_line: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            await claims_on_the_desktop(world, interrupt)
        assert await wishes(world) == {b""}


async def test_who_knows_one_supplier_only_is_heard_by_who_writes(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The writer hired the other four since; that one has the head that lists them."""
    async with two(tmp_path) as (world, laptop, _desktop), laptop.mounted():
        await laptop.write("file", CONTENT)
        assert await laptop.sync() == "safe"
        with closing(SqliteCatalog(":memory:", create=True)) as known:
            known.put_supplier(world.catalog.suppliers()[0])
            known.commit()
            claimed = Claim(DESKTOP, SECRETS, SEAT, dialer=world.swarm.network.dialer(DESKTOP.node))
            (told,) = await claimed.make(known, takes_over=False)
        assert "wrote this volume, and has let it go" in told
        assert await held_for(world, LAPTOP) == DESKTOP.node


def test_what_a_daemon_waits_for_is_shown_and_nothing_else_of_what_it_says(tmp_path: Path) -> None:
    complaints, shown = tmp_path / "stderr", list[str]()
    complaints.touch()
    with shown_waiting(complaints, shown.append), complaints.open("a", buffering=1) as stderr:
        stderr.write(f"a warning of a library\n{WAITING}somebody")
        stderr.write(f" else\nbitdustfs: it is refused\n{WAITING}half a line")
    assert shown == [f"{WAITING}somebody else"]
