"""A clock that is wrong erases nothing of a friend's: another machine has to say too how late it is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.agreement import Wish
from bitdustfs.core.grace import DAY_S, GRACE_S, NOTICE_S
from tests.engine.test_agreements import Friends, can_read, friends, store

pytestmark = pytest.mark.slow


async def end(f: Friends) -> None:
    """Anna ends the contract with Boris, in NOTICE_S. Her disk is as good as full."""
    await store(f.boris)
    await f.anna.accords.change(f.boris.owner, Wish(until_s=f.anna.clerk.now_s() + NOTICE_S))
    f.anna.shelf.donated_bytes = 350_000


def yields(f: Friends) -> bool:
    """Whether what Boris stored goes when somebody else needs the room."""
    return f.boris.owner in f.anna.keeper.endings.yielding()


async def test_clock_that_is_ahead_from_before_the_end_on_makes_nothing_yield_early(
    autojump_clock: MockClock,
) -> None:
    async with friends() as f:
        await end(f)
        f.hers.move_s(45 * DAY_S)  # and it stays so
        await f.wait(0)
        await f.wait(GRACE_S)  # the contract ends only now
        assert not yields(f)
        f.restart()
        await f.wait(GRACE_S)
        assert not yields(f)
        assert await can_read(f.boris)
        await f.wait(16 * DAY_S)
        assert yields(f)


async def test_clock_that_goes_too_fast_makes_nothing_yield_early(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await end(f)
        for _ in range(6):
            f.hers.move_s(10 * DAY_S)
            await f.wait(10 * DAY_S)
            assert not yields(f)
        assert await can_read(f.boris)


async def test_without_any_other_clock_nothing_yields(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await end(f)
        f.boris.kill()
        for _ in range(3):
            await f.wait(365 * DAY_S)
        assert not yields(f)
        f.boris.start()
        await f.wait(0)
        await f.boris.until(lambda: f.anna.book.others_s() > f.boris.clerk.now_s() - DAY_S)
        assert yields(f)


async def test_friend_whose_clock_is_ahead_makes_nothing_yield(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await end(f)
        f.wall.move_s(3650 * DAY_S)
        await f.wait(NOTICE_S + DAY_S)
        await f.wait(GRACE_S - 2 * DAY_S)
        assert f.anna.book.others_s() == 0
        assert not yields(f)
        await f.wait(3 * DAY_S)
        assert not yields(f)  # nor does it say that it is late enough
        f.wall.move_s(-3650 * DAY_S)
        await f.wait(0)
        assert yields(f)


async def test_end_that_a_clock_saw_which_was_ahead_is_seen_anew_when_it_is_right(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await end(f)
        await f.wait(NOTICE_S - DAY_S)
        f.hers.move_s(20_000 * DAY_S)
        await f.wait(2 * DAY_S)
        assert f.anna.contracts.endings()[f.boris.owner][0] > f.boris.clerk.now_s() + 19_000 * DAY_S
        f.hers.move_s(-20_000 * DAY_S)
        await f.wait(0)
        seen_s, run_s = f.anna.contracts.endings()[f.boris.owner]
        assert (seen_s, run_s) == (f.anna.clerk.now_s(), 0)
        await f.wait(GRACE_S - DAY_S)
        assert not yields(f)
        await f.wait(2 * DAY_S)
        assert yields(f)


async def test_time_that_was_lived_is_noted_before_an_hour_is_over(autojump_clock: MockClock) -> None:
    async with friends() as f:
        await end(f)
        await f.wait(NOTICE_S + DAY_S)
        for _ in range(2):
            await trio.sleep(1000)
            f.restart()
        assert f.anna.contracts.endings()[f.boris.owner][1] >= 1800
