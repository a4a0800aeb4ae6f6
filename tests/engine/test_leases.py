"""Leases at a supplier: it takes the heads of one writer at a time, and tells the others who that is."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.core.lease import LEASE_S, WISH_S
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.heads import WAIT_S
from bitdustfs.errors import DiskFull
from bitdustfs.model import OwnerId, Role
from bitdustfs.testing.swarm import make_identity
from tests.core.leased import COPY, SEAT, head_of
from tests.engine.test_heads import DESKTOP, HANDLE, LAPTOP, NEW_LAPTOP, Kept, SlowCrunch

TABLET = make_identity("tablet", owner="customer", role=Role.READER)


def head(version: int, after: Head | None = None, *, by: Identity = LAPTOP, **how: Any) -> Head:
    return head_of(by, version, after, handle=HANDLE, **how)


FIRST = head(1)


async def hold(
    kept: Kept,
    by: Identity,
    *,
    seat: bytes = SEAT,
    lease_s: int = LEASE_S,
    takes_over: bool = False,
    wishes: bool = False,
    waits: bool = False,
) -> wire.Holds:
    answer, _ = await kept.ask(by, wire.Hold(seat, lease_s, takes_over, wishes, waits))
    assert isinstance(answer, wire.Holds)
    return answer


async def is_leased(kept: Kept, made: Head, by: Identity, between: bytes = b"") -> bool:
    """Whether a head is refused because another one holds the volume."""
    answer = await kept.put(made, between, by)
    assert isinstance(answer, Refusal | wire.Done)
    return isinstance(answer, Refusal) and answer.code is Refused.LEASED


async def test_head_of_another_writer_waits_for_the_end_of_the_lease() -> None:
    kept = Kept()
    await kept.put(FIRST)
    other = head(2, FIRST, by=DESKTOP)
    assert await is_leased(kept, other, DESKTOP)
    kept.wall.suspend_s(LEASE_S / 2)
    await hold(kept, LAPTOP)
    kept.wall.suspend_s(LEASE_S - 1)
    assert await is_leased(kept, other, DESKTOP)
    assert await kept.held() == FIRST.raw
    kept.wall.suspend_s(2)
    assert await kept.put(other, by=DESKTOP) == wire.Done()
    assert await is_leased(kept, head(3, other), LAPTOP)


async def test_wall_clock_that_jumps_ends_no_lease() -> None:
    """F17, for leases."""
    kept = Kept()
    await kept.put(FIRST)
    for years in (10, -10, 30):
        kept.wall.move_s(years * 365 * 86_400)
        assert await is_leased(kept, head(2, FIRST, by=DESKTOP), DESKTOP)


async def test_copy_of_a_home_is_refused_while_the_first_one_writes() -> None:
    """F15, at the supplier: the same node key, and the same head to follow."""
    kept = Kept()
    await kept.put(FIRST)
    assert await is_leased(kept, head(2, FIRST, seat=COPY), LAPTOP)
    assert not (await hold(kept, LAPTOP, seat=COPY)).is_yours
    assert (await hold(kept, LAPTOP)).is_yours
    assert await kept.put(head(2, FIRST)) == wire.Done()


async def test_holder_lets_go_and_the_next_one_writes() -> None:
    kept = Kept()
    await kept.put(FIRST)
    assert not (await hold(kept, DESKTOP)).is_yours
    assert (await hold(kept, LAPTOP, lease_s=0)).is_yours
    assert (await hold(kept, DESKTOP)).is_yours
    assert await is_leased(kept, head(2, FIRST), LAPTOP)
    assert await kept.put(head(2, FIRST, by=DESKTOP), by=DESKTOP) == wire.Done()


async def test_letting_go_in_the_chain_survives_a_restart_of_the_supplier() -> None:
    kept = Kept()
    gone = head(2, FIRST, lease_s=0)
    await kept.put(FIRST)
    assert await kept.put(gone) == wire.Done()
    kept.start()
    assert (await hold(kept, DESKTOP)).is_yours
    assert await kept.put(head(3, gone, by=DESKTOP), by=DESKTOP) == wire.Done()


async def test_supplier_that_was_away_takes_what_was_handed_on_meanwhile() -> None:
    kept = Kept()
    await kept.put(FIRST)
    gone = head(2, FIRST, lease_s=0)
    assert await kept.put(head(3, gone, by=DESKTOP), gone.link, DESKTOP) == wire.Done()


async def test_restarted_supplier_counts_a_whole_lease_anew() -> None:
    kept = Kept()
    await kept.put(FIRST)
    kept.wall.suspend_s(LEASE_S - 1)
    kept.start()
    assert await is_leased(kept, head(2, FIRST, by=DESKTOP), DESKTOP)
    kept.wall.suspend_s(LEASE_S - 1)
    assert await is_leased(kept, head(2, FIRST, by=DESKTOP), DESKTOP)


async def test_restarted_supplier_takes_nobody_for_the_holder_who_has_let_go() -> None:
    """It went by its head, so who had let go long ago held the volume from when somebody else asked."""
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, LAPTOP)
    await hold(kept, LAPTOP, lease_s=0)
    kept.start()
    assert (await hold(kept, DESKTOP)).is_yours
    assert await is_leased(kept, head(2, FIRST), LAPTOP)


async def test_restarted_supplier_knows_who_holds_the_volume_and_has_put_no_head() -> None:
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, LAPTOP, lease_s=0)
    await hold(kept, DESKTOP)
    kept.start()
    kept.wall.suspend_s(LEASE_S)  # counted from when it is asked
    told = await hold(kept, LAPTOP)
    assert (told.is_yours, told.node) == (False, DESKTOP.node)
    kept.wall.suspend_s(LEASE_S - 1)
    assert not (await hold(kept, LAPTOP)).is_yours
    kept.wall.suspend_s(2)
    assert (await hold(kept, LAPTOP)).is_yours


async def test_head_says_who_holds_the_volume_whatever_was_noted_before() -> None:
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, LAPTOP, lease_s=0)
    await hold(kept, DESKTOP)
    second = head(2, FIRST, by=DESKTOP)
    await kept.put(second, by=DESKTOP)
    assert kept.store.heads() == {LAPTOP.owner: second.raw + FIRST.link}
    await hold(kept, DESKTOP, lease_s=0)
    await hold(kept, LAPTOP)
    kept.start()
    assert await kept.held() == second.raw
    assert await kept.put(head(3, second)) == wire.Done()


@pytest.mark.parametrize("crunch", [None, SlowCrunch()])
async def test_who_holds_the_volume_is_stored_when_it_is_another_one(crunch: SlowCrunch | None) -> None:
    kept = Kept(crunch=crunch)
    await kept.put(FIRST)
    stored: list[bytes] = []
    save = kept.store.save_head

    def save_head(owner: OwnerId, head: bytes) -> None:
        stored.append(head)
        save(owner, head)

    kept.store.save_head = save_head  # type: ignore[method-assign]
    for _ in range(3):
        await hold(kept, LAPTOP)
        await hold(kept, DESKTOP, wishes=True)
    assert not stored
    for _ in range(3):
        await hold(kept, LAPTOP, lease_s=0)
    assert len(stored) == 1


async def test_full_disk_of_a_supplier_keeps_nobody_from_holding_the_volume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept()
    await kept.put(FIRST)
    save = kept.store.save_head

    def full(owner: OwnerId, head: bytes) -> None:
        raise DiskFull(path="the shelf")

    kept.store.save_head = full  # type: ignore[method-assign]
    await hold(kept, LAPTOP, lease_s=0)
    assert "could not be stored" in caplog.text
    assert (await hold(kept, DESKTOP)).is_yours
    kept.store.save_head = save  # type: ignore[method-assign]
    await hold(kept, DESKTOP)
    kept.start()
    assert not (await hold(kept, LAPTOP)).is_yours


async def test_who_takes_over_is_taken_at_once_and_the_old_writer_is_refused() -> None:
    kept = Kept()
    await kept.put(FIRST)
    assert (await hold(kept, DESKTOP, takes_over=True)).is_yours
    assert await is_leased(kept, head(2, FIRST), LAPTOP)
    told = await hold(kept, LAPTOP)
    assert (told.is_yours, told.node) == (False, DESKTOP.node)
    taken = head(2, FIRST, by=DESKTOP, takes_over=True)
    assert await kept.put(taken, by=DESKTOP) == wire.Done()


async def test_head_that_takes_over_needs_no_word_before() -> None:
    kept = Kept()
    await kept.put(FIRST)
    taken = head(2, FIRST, by=DESKTOP, takes_over=True)
    assert await kept.put(taken, by=DESKTOP) == wire.Done()
    assert await kept.put(head(3, taken, by=DESKTOP), by=DESKTOP) == wire.Done()
    assert not (await hold(kept, LAPTOP)).is_yours


@pytest.mark.parametrize("takes_over", [True, False])
async def test_holder_that_brings_the_head_of_another_one_goes_on_holding_the_volume(takes_over: bool) -> None:
    """The other one is gone, and could not bring it here himself."""
    kept = Kept()
    await kept.put(FIRST)
    assert (await hold(kept, LAPTOP)).is_yours
    others = head(2, FIRST, by=DESKTOP, takes_over=takes_over)
    assert await kept.put(others, by=LAPTOP) == wire.Done()
    assert (await hold(kept, LAPTOP)).is_yours
    assert await is_leased(kept, head(3, others, by=DESKTOP), DESKTOP)


async def test_holder_that_brings_the_head_of_another_one_holds_the_volume_after_a_start_too() -> None:
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, LAPTOP)
    others = head(2, FIRST, by=DESKTOP, takes_over=True)
    assert await kept.put(others, by=LAPTOP) == wire.Done()
    kept.start()
    told = await hold(kept, DESKTOP)
    assert (told.is_yours, told.node) == (False, LAPTOP.node)


async def test_holder_that_brings_the_head_of_another_one_holds_it_wherever_the_supplier_dies() -> None:
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, LAPTOP)
    save, states = kept.store.save_head, list[bytes]()

    def save_head(owner: OwnerId, head: bytes) -> None:
        states.append(head)
        save(owner, head)

    kept.store.save_head = save_head  # type: ignore[method-assign]
    others = head(2, FIRST, by=DESKTOP, takes_over=True)
    assert await kept.put(others, by=LAPTOP) == wire.Done()
    assert states
    for state in states:
        save(LAPTOP.owner, state)
        kept.start()
        told = await hold(kept, DESKTOP)
        assert (told.is_yours, told.node) == (False, LAPTOP.node)


async def test_new_epoch_holds_the_volume_whoever_held_it() -> None:
    kept = Kept()
    await kept.put(FIRST)
    assert (await hold(kept, NEW_LAPTOP)).is_yours
    assert await kept.put(head(1, by=NEW_LAPTOP), by=NEW_LAPTOP) == wire.Done()


async def test_wish_is_told_to_the_holder_until_it_is_granted_or_old() -> None:
    kept = Kept()
    await kept.put(FIRST)
    await hold(kept, DESKTOP, wishes=True)
    assert (await hold(kept, LAPTOP)).wished_by == DESKTOP.node
    kept.wall.suspend_s(WISH_S + 1)
    assert (await hold(kept, LAPTOP)).wished_by == b""
    await hold(kept, DESKTOP, wishes=True)
    await hold(kept, DESKTOP, lease_s=0)  # it gave up
    assert (await hold(kept, LAPTOP)).wished_by == b""
    await hold(kept, DESKTOP, wishes=True)
    await hold(kept, LAPTOP, lease_s=0)
    assert (await hold(kept, DESKTOP)).is_yours
    assert (await hold(kept, LAPTOP)).wished_by == b""


@pytest.mark.parametrize("takes_over", [False, True])
async def test_holder_that_waits_hears_at_once_of_a_wish_and_of_who_took_over(
    takes_over: bool, autojump_clock: MockClock
) -> None:
    kept, began = Kept(), trio.current_time()
    await kept.put(FIRST)
    async with trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        nursery.start_soon(ask_later, kept, takes_over)
        told = await hold(kept, LAPTOP, waits=True)
        assert trio.current_time() - began == 5
        assert (told.is_yours, told.wished_by) == (not takes_over, b"" if takes_over else DESKTOP.node)


async def ask_later(kept: Kept, takes_over: bool) -> None:
    await trio.sleep(5)
    await hold(kept, DESKTOP, takes_over=takes_over, wishes=True)


async def test_holder_that_waits_for_nothing_is_answered_after_a_while(autojump_clock: MockClock) -> None:
    kept, began = Kept(), trio.current_time()
    await kept.put(FIRST)
    told = await hold(kept, LAPTOP, waits=True)
    assert (told.is_yours, told.wished_by) == (True, b"")
    assert trio.current_time() - began == WAIT_S


async def test_nobody_but_a_writer_holds_anything() -> None:
    kept = Kept()
    answer, _ = await kept.ask(TABLET, wire.Hold(SEAT, 60, True, True, False))
    assert isinstance(answer, Refusal)
    assert answer.code is Refused.NOT_ALLOWED


async def test_who_was_told_that_he_holds_it_keeps_it_while_a_head_is_being_stored() -> None:
    kept = Kept(crunch=SlowCrunch())
    await kept.put(FIRST)
    kept.wall.suspend_s(LEASE_S + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.put, head(2, FIRST))
        for _ in range(3):
            await trio.sleep(0)
        told = await hold(kept, DESKTOP)
    assert told.is_yours is not (await hold(kept, LAPTOP)).is_yours
