"""Discovery: on a schedule that follows nothing, bounded, and never in anybody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import MockClock

from bitdustfs.core import owner_record
from bitdustfs.core import record as records
from bitdustfs.core.certificate import node_id
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.owner_record import Keeper, OwnerRecord
from bitdustfs.core.record import DAY_S, Record, RecordKind, sign_addresses
from bitdustfs.engine.discovery import (
    AGAIN_S,
    ASK_AGAIN_S,
    EVERY_S,
    FIRST_S,
    LOOKUP_S,
    LOOKUPS,
    MOVED_S,
    Discovery,
    find_keepers,
)
from bitdustfs.errors import NotFound
from bitdustfs.model import NodeId
from bitdustfs.testing.clock import RunningWall
from bitdustfs.testing.directory import FakeDirectory
from bitdustfs.testing.entropy import SeededEntropy

RECORD_KEY = bytes(range(32))
US, FRIEND, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
INSIDE = OwnerRecord(7, (Keeper(node_id(public_bytes(FRIEND)), "192.0.2.2:7000"), Keeper(NodeId(b"n" * 32), "")))


def _after(heads: Sequence[int]) -> OwnerRecord:
    return OwnerRecord(len(heads), INSIDE.keepers)


class Setting:
    """A directory, the time, and a discovery over both."""

    def __init__(self, *, own: bool = True, partners: Sequence[tuple[NodeId, bytes]] = ()) -> None:
        self.wall = RunningWall()
        self.directory = FakeDirectory(self.now_s)
        self.discovery = Discovery(
            self.directory,
            self.wall,
            SeededEntropy(1),
            own=lambda: self.of(US, "192.0.2.1:7000").raw if own else b"",
            partners=lambda: partners,
        )

    def now_s(self) -> int:
        return self.wall.now_ns() // 1_000_000_000

    def of(self, key: Ed25519PrivateKey, *addresses: str, sequence: int = 1) -> Record:
        return sign_addresses(key, addresses, sequence=sequence, expiry_s=self.now_s() + 2 * DAY_S)

    def taken(self, kind: RecordKind) -> list[Record]:
        return [record for record, _also in self.directory.published if record.kind is kind]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.discovery.run)
            yield
            nursery.cancel_scope.cancel()


async def test_own_record_is_published_again_and_again(autojump_clock: MockClock) -> None:
    setting = Setting()
    async with setting.running():
        await trio.sleep(2 * FIRST_S)
        assert [record.signer for record in setting.taken(RecordKind.NODE)] == [node_id(public_bytes(US))]
        await trio.sleep(10 * EVERY_S)
        assert 10 / 1.5 <= len(setting.taken(RecordKind.NODE)) <= 21
        assert setting.taken(RecordKind.OWNER) == []


async def test_own_record_is_published_at_once_when_it_is_another_one(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.discovery.speak_for(RECORD_KEY, lambda: INSIDE)
    async with setting.running():
        await trio.sleep(2 * FIRST_S)
        before = len(setting.directory.published)
        setting.directory.is_silent = True
        setting.discovery.moved()
        await trio.sleep(2 * MOVED_S)
        setting.directory.is_silent = False
        await trio.sleep(4 * MOVED_S)
        kinds = [record.kind for record, _also in setting.directory.published[before:]]
        assert kinds == [RecordKind.NODE] * 2  # nobody took the first; of the owner nothing is said
        setting.discovery.moved()
        await trio.sleep(2 * MOVED_S)
        assert len(setting.directory.published) == before + 3


async def test_owners_record_says_who_keeps_his_volume_and_goes_to_them_too(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.discovery.speak_for(RECORD_KEY, lambda: INSIDE)
    async with setting.running():
        await trio.sleep(2 * FIRST_S)
    [(record, also)] = [each for each in setting.directory.published if each[0].kind is RecordKind.OWNER]
    assert owner_record.unseal(RECORD_KEY, record) == INSIDE
    assert also == ("192.0.2.2:7000",)
    assert record.is_valid(setting.now_s() + 170 * DAY_S), "it outlives the machine that made it"
    assert owner_record.id_of(RECORD_KEY) in setting.directory.pinned


@pytest.mark.slow
async def test_owners_record_comes_on_schedule_whatever_he_does(autojump_clock: MockClock) -> None:
    times: list[list[float]] = []
    for changes in (False, True):
        setting, heads = Setting(own=False), [1]
        setting.discovery.speak_for(RECORD_KEY, partial(_after, heads))
        began, when = trio.current_time(), list[float]()
        async with setting.running():
            for _ in range(400):
                before = len(setting.directory.published)
                await trio.sleep(60)
                heads += [1] * changes
                if len(setting.directory.published) > before:
                    when.append(trio.current_time() - began)
        times.append(when)
    assert times[0] == times[1]
    assert len(times[0]) > 3


async def test_owners_record_gets_a_higher_number_than_that_of_another_machine(autojump_clock: MockClock) -> None:
    setting = Setting()
    ahead = setting.now_s() + 10_000_000
    other = owner_record.seal(
        RECORD_KEY, OwnerRecord(1, ()), salt=bytes(16), sequence=ahead, expiry_s=setting.now_s() + DAY_S
    )
    await setting.directory.publish(other.raw)
    setting.discovery.speak_for(RECORD_KEY, lambda: INSIDE)
    async with setting.running():
        await trio.sleep(2 * FIRST_S + 3 * EVERY_S)
    sequences = [record.sequence for record in setting.taken(RecordKind.OWNER)]
    assert sequences[:3] == [ahead, ahead + 1, ahead + 2]


async def test_what_nobody_took_is_offered_again_soon(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.directory.is_silent = True
    async with setting.running():
        await trio.sleep(2 * FIRST_S + 6 * AGAIN_S)
    assert len(setting.directory.published) >= 4


async def test_newest_record_of_a_partner_is_handed_on(autojump_clock: MockClock) -> None:
    for known, there in ((2, 1), (1, 2), (0, 2), (2, 0)):
        friend = node_id(public_bytes(FRIEND))
        made = Setting()
        raw = made.of(FRIEND, sequence=known).raw if known else b""
        setting = Setting(own=False, partners=[(friend, raw)])
        if there:
            await setting.directory.publish(setting.of(FRIEND, sequence=there).raw)
        async with setting.running():
            await trio.sleep(2 * FIRST_S)
        assert setting.directory.published[-1][0].sequence == 2
        assert setting.directory.pinned == (records.id_of(RecordKind.NODE, friend),)


async def test_lookup_gives_what_the_directory_shows(autojump_clock: MockClock) -> None:
    setting = Setting()
    there = setting.of(FRIEND, "192.0.2.9:1")
    await setting.directory.publish(there.raw)
    assert await setting.discovery.lookup(there.signer) == there.raw


async def test_node_that_was_not_found_is_not_asked_for_at_once_again(autojump_clock: MockClock) -> None:
    setting = Setting()
    node = NodeId(b"n" * 32)
    for _ in range(5):
        assert await setting.discovery.lookup(node) == b""
    assert len(setting.directory.asked) == 1
    await trio.sleep(ASK_AGAIN_S)
    assert await setting.discovery.lookup(node) == b""
    assert len(setting.directory.asked) == 2


async def test_directory_that_hangs_costs_a_lookup_its_deadline_and_nobody_else_anything(
    autojump_clock: MockClock,
) -> None:
    setting = Setting()
    setting.directory.hangs = True
    setting.discovery.speak_for(RECORD_KEY, lambda: INSIDE)
    began = trio.current_time()
    async with setting.running(), trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(setting.discovery.lookup, NodeId(bytes([number]) * 32))
        await trio.sleep(1)
        assert len(setting.directory.asked) == LOOKUPS
    assert trio.current_time() - began <= LOOKUP_S + 1


# --- from the words alone -------------------------------------------------------------------------------------


async def published(setting: Setting, inside: OwnerRecord, *more: Record) -> None:
    made = owner_record.seal(RECORD_KEY, inside, salt=bytes(16), sequence=1, expiry_s=setting.now_s() + DAY_S)
    for each in (made, *more):
        await setting.directory.publish(each.raw)


async def test_suppliers_are_found_from_the_record_key_alone(autojump_clock: MockClock) -> None:
    setting = Setting()
    moved = setting.of(OTHER, "192.0.2.9:1", "[2001:db8::9]:1")
    gone = Keeper(NodeId(b"g" * 32), "")
    await published(setting, OwnerRecord(1, (INSIDE.keepers[0], Keeper(moved.signer, "192.0.2.3:1"), gone)), moved)
    assert set(await find_keepers(setting.directory, RECORD_KEY)) == {
        INSIDE.keepers[0],
        Keeper(moved.signer, "192.0.2.9:1"),
        Keeper(moved.signer, "[2001:db8::9]:1"),
        Keeper(moved.signer, "192.0.2.3:1"),
    }


@pytest.mark.parametrize("inside", [None, OwnerRecord(1, ()), OwnerRecord(1, (INSIDE.keepers[1],))])
async def test_that_nobody_knows_the_suppliers_is_said(inside: OwnerRecord | None, autojump_clock: MockClock) -> None:
    setting = Setting()
    if inside is not None:
        await published(setting, inside)
    with pytest.raises(NotFound):
        await find_keepers(setting.directory, RECORD_KEY)


async def test_thief_with_the_highest_number_costs_the_owners_record_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    """He has the record key, from a stolen machine."""
    setting = Setting()
    expiry_s = setting.now_s() + DAY_S
    forged = owner_record.seal(
        RECORD_KEY, OwnerRecord(9, ()), salt=bytes(16), sequence=records.MAX_SEQUENCE, expiry_s=expiry_s
    )
    await setting.directory.publish(forged.raw)
    setting.discovery.speak_for(RECORD_KEY, lambda: INSIDE)
    async with setting.running():
        await trio.sleep(2 * FIRST_S)
        await trio.sleep(2 * EVERY_S)
        assert len(setting.taken(RecordKind.NODE)) > 1
