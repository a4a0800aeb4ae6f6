"""After a jump of the clock nothing is done by a date for a while, also when it jumped before a start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import DAY_S
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.settling import FAR_S, JUMP_S, NOTE_S, SETTLE_S, Settling, note_clock
from bitdustfs.testing.clock import FakeWall


@pytest.fixture
def catalog() -> Iterator[SqliteCatalog]:
    made = SqliteCatalog(":memory:", create=True)
    yield made
    made.close()


class Machine:
    """One that starts again and again."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        self.catalog = catalog
        self.wall = FakeWall()
        self.settling = Settling(catalog, Journal(catalog), self.wall)

    def start(self) -> bool:
        self.settling = Settling(self.catalog, Journal(self.catalog), self.wall)
        return self.look()

    def look(self) -> bool:
        self.settling.look()
        self.settling.note()
        return self.settling.is_over

    async def run(self, seconds: float) -> bool:
        """Both clocks go on."""
        self.wall.move_s(seconds)
        await trio.sleep(seconds)
        return self.look()


@pytest.fixture
def machine(catalog: SqliteCatalog) -> Machine:
    return Machine(catalog)


async def test_first_start_of_a_volume_waits_for_nothing(machine: Machine, autojump_clock: MockClock) -> None:
    assert machine.start()


async def test_jump_while_we_run_is_waited_for(machine: Machine, autojump_clock: MockClock) -> None:
    machine.start()
    assert await machine.run(DAY_S)
    machine.wall.move_s(2 * JUMP_S)
    assert not await machine.run(60)
    assert not await machine.run(SETTLE_S - 120)
    assert await machine.run(180)


async def test_some_days_off_are_no_jump_and_more_are(machine: Machine, autojump_clock: MockClock) -> None:
    machine.start()
    machine.wall.move_s(FAR_S - 60)
    assert machine.start()
    machine.wall.move_s(FAR_S + 60)
    assert not machine.start()


async def test_what_is_left_of_the_wait_outlives_a_restart(machine: Machine, autojump_clock: MockClock) -> None:
    machine.start()
    machine.wall.move_s(3650 * DAY_S)
    assert not machine.start()
    assert not await machine.run(SETTLE_S * 0.6)
    assert not machine.start()
    assert await machine.run(SETTLE_S * 0.5)
    assert machine.start()


async def test_clock_that_comes_back_and_is_ahead_again_is_waited_for(
    machine: Machine, autojump_clock: MockClock
) -> None:
    machine.start()
    machine.wall.move_s(3650 * DAY_S)
    machine.start()
    await machine.run(SETTLE_S + 60)
    machine.wall.move_s(-3650 * DAY_S)
    assert machine.start()
    machine.wall.move_s(3650 * DAY_S)
    assert not machine.start()


async def test_recovered_volume_goes_by_when_its_head_was_signed(machine: Machine, autojump_clock: MockClock) -> None:
    note_clock(machine.catalog, machine.wall.now_ns() // 10**9 - FAR_S - 60)
    assert not machine.start()


async def test_damaged_note_is_none(machine: Machine, autojump_clock: MockClock) -> None:
    machine.catalog.put_local_value("clock", b"?")
    assert machine.start()


async def test_clock_that_goes_as_it_should_is_noted_now_and_then_only(
    machine: Machine, autojump_clock: MockClock
) -> None:
    machine.start()
    before = machine.catalog.local_value("clock")
    await machine.run(NOTE_S / 2)
    assert machine.catalog.local_value("clock") == before
    await machine.run(NOTE_S)
    assert machine.catalog.local_value("clock") != before
