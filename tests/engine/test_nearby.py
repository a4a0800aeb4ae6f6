"""Partners in one local network find each other there, and tell strangers nothing that lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.addresses import can_be_announced
from bitdustfs.core.neighbours import SALT_BYTES, name_of, whose
from bitdustfs.engine.addresses import MAX_NEARBY, AddressBook
from bitdustfs.engine.nearby import LOOK_S, NEWS_BURST, RENAME_S, Nearby, look_around
from bitdustfs.model import NodeId
from bitdustfs.ports import Heard
from bitdustfs.testing.clock import FakeWall, InlineCrunch, RunningWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.lan import MemoryAir, MemoryLan
from bitdustfs.testing.network import MemoryInterfaces, MemoryNetwork
from bitdustfs.testing.shelf import MemoryAddresses
from bitdustfs.testing.swarm import make_identity

GIB = 1 << 30
FOUND_S = 10.0
SALT = bytes(SALT_BYTES)


class Two:
    """Anna stores with Boris; nobody else knows either."""

    def __init__(self, nursery: trio.Nursery, *, walled: str) -> None:
        self.network, self.wall, self.air = MemoryNetwork(), RunningWall(), MemoryAir()
        self.anna, self.boris = (
            Daemon(name, self.network, nursery, self.wall, listens=walled != name, seed=seed, air=self.air)
            for seed, name in enumerate(("anna", "boris"))
        )

    async def agree(self) -> None:
        self.boris.allowed[self.anna.owner] = GIB
        if not self.boris.address:
            self.boris.dial[self.anna.node] = [self.anna.address]
            await self.boris.until(lambda: bool(self.anna.connections.of(self.boris.node)))
        await self.anna.hire(self.boris, GIB)
        await self.anna.until(self.are_together)
        await trio.sleep(30)  # and have told each other where they are
        self.boris.dial.clear()

    def are_together(self) -> bool:
        live = [link for link in self.network.links() if not link.is_stranded]
        is_joined = any(link.joins(self.anna.node, self.boris.node) for link in live)
        return is_joined and bool(self.anna.suppliers.online())

    async def until_together(self) -> float:
        since = trio.current_time()
        with trio.move_on_after(300):
            await self.anna.until(self.are_together)
        return trio.current_time() - since

    async def part(self) -> None:
        """Both are somewhere else, where nothing can be heard."""
        self.anna.move("172.16.1.2")
        self.boris.move("172.16.2.2")
        await trio.sleep(200)
        assert not self.are_together()

    def questions(self) -> int:
        return sum(1 for name, _place in self.air.said if not name)


@asynccontextmanager
async def two(*, walled: str = "") -> AsyncIterator[Two]:
    with trio.fail_after(1_000_000):
        async with trio.open_nursery() as nursery:
            them = Two(nursery, walled=walled)
            await them.agree()
            yield them
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_two_who_come_into_one_network_at_once_find_each_other(autojump_clock: MockClock) -> None:
    async with two() as them:
        await them.part()
        them.anna.move("192.168.7.2")
        them.boris.move("192.168.7.3")
        assert await them.until_together() < FOUND_S


@pytest.mark.slow
async def test_one_whom_nobody_can_dial_says_nothing_and_finds_the_other(autojump_clock: MockClock) -> None:
    for walled in ("anna", "boris"):
        async with two(walled=walled) as them:
            await them.part()
            them.air.said.clear()
            them.anna.move("192.168.7.2")
            them.boris.move("192.168.7.3")
            assert await them.until_together() < FOUND_S
            told = {place for _name, place in them.air.said if place}
            assert told == {"192.168.7.3:7000" if walled == "anna" else "192.168.7.2:7000"}


@pytest.mark.slow
async def test_partner_who_comes_later_is_found_when_he_says_so(autojump_clock: MockClock) -> None:
    async with two() as them:
        await them.part()
        them.anna.move("192.168.7.2")
        await trio.sleep(500)
        them.boris.move("192.168.7.3")
        assert await them.until_together() < FOUND_S


@pytest.mark.slow
async def test_partner_whose_words_were_lost_is_found_within_a_minute(autojump_clock: MockClock) -> None:
    async with two() as them:
        await them.part()
        them.air.is_deaf = True
        them.anna.move("192.168.7.2")
        them.boris.move("192.168.7.3")
        await trio.sleep(100)
        assert not them.are_together()
        them.air.is_deaf = False
        assert await them.until_together() < LOOK_S + FOUND_S


@pytest.mark.slow
async def test_nobody_is_asked_for_while_all_are_connected(autojump_clock: MockClock) -> None:
    async with two() as them:
        before = them.questions()
        await trio.sleep(20 * LOOK_S)
        assert them.questions() == before
        them.boris.kill()
        await trio.sleep(20 * LOOK_S)
        assert 18 <= them.questions() - before <= 22


async def test_network_without_multicast_changes_nothing(autojump_clock: MockClock) -> None:
    async with two() as them:
        them.air.is_deaf = True
        them.boris.move("192.168.7.3")
        assert await them.until_together() < 60  # he dials, as ever


@pytest.mark.slow
async def test_question_is_answered_once_a_second_however_often_it_is_asked(autojump_clock: MockClock) -> None:
    async with two() as them:
        await trio.sleep(100)
        them.air.said.clear()
        for _tenth in range(100):
            them.air.carry(them.boris.number, Heard())
            await trio.sleep(0.1)
        assert 9 <= len(them.air.said) <= 11


@pytest.mark.slow
async def test_names_are_others_in_each_network_and_each_day_and_say_who_it_is_to_partners_only(
    autojump_clock: MockClock,
) -> None:
    air, interfaces, anna = MemoryAir(), MemoryInterfaces(), make_identity("anna")
    book = AddressBook(anna, MemoryAddresses(), FakeWall(), InlineCrunch(), keeps=lambda _node, _owner: False)
    nearby = Nearby(
        MemoryLan(air),
        book,
        interfaces,
        SeededEntropy(1),
        anna.node,
        listening=["0.0.0.0:7000", "[::]:7000"],
        sought=tuple,
        is_missing=lambda: False,
    )
    names: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nearby.run)
        for numbers in (["192.168.7.3", "10.1.1.1", "2001:db8::1"], ["192.168.8.3"], []):
            air.said.clear()
            interfaces.known = {"127.0.0.1": True, **dict.fromkeys(numbers, True), "192.168.9.9": False}
            nearby.moved()
            await trio.sleep(30)
            assert {place for _name, place in air.said} == {f"{each}:7000" for each in numbers if ":" not in each}
            names += dict.fromkeys(name for name, _place in air.said)  # one in each network, each time it is there
        interfaces.known = {"192.168.8.3": True}
        nearby.moved()
        for _day in range(2):
            await trio.sleep(30)
            air.said.clear()
            air.carry("192.168.8.1", Heard())
            await trio.sleep(RENAME_S)
            names += dict.fromkeys(name for name, _place in air.said)
        nursery.cancel_scope.cancel()
    assert len(names) == len(set(names)) == 2 + 2
    strangers = [make_identity(f"stranger {number}").node for number in range(20)]
    for name in names:
        assert whose(name, [*strangers, anna.node]) == anna.node
        assert whose(name, strangers) is None


async def told_by(listening: list[str], numbers: list[str]) -> set[str]:
    """The places that a machine with these numbers tells of."""
    air, interfaces, anna = MemoryAir(), MemoryInterfaces(), make_identity("anna")
    book = AddressBook(anna, MemoryAddresses(), FakeWall(), InlineCrunch(), keeps=lambda _node, _owner: False)
    lan, entropy = MemoryLan(air), SeededEntropy(1)
    nearby = Nearby(
        lan, book, interfaces, entropy, anna.node, listening=listening, sought=tuple, is_missing=lambda: False
    )
    interfaces.known = dict.fromkeys(numbers, True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nearby.run)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    return {place for _name, place in air.said}


async def test_who_has_link_local_numbers_tells_of_them_in_their_zones_if_it_listens_there(
    autojump_clock: MockClock,
) -> None:
    numbers = ["192.168.7.3", "2001:db8::1", "fe80::1%2", "fe80::1%3"]
    both = await told_by(["[::]:7000", "0.0.0.0:7000"], numbers)
    assert both == {"192.168.7.3:7000", "[fe80::1%2]:7000", "[fe80::1%3]:7000"}
    assert await told_by(["0.0.0.0:7000"], numbers) == {"192.168.7.3:7000"}


async def test_partner_that_is_heard_without_an_address_is_dialled_in_the_zone_and_it_is_kept_nowhere(
    autojump_clock: MockClock,
) -> None:
    async with two() as them:
        place = "[fe80::7%3]:7000"
        them.boris.kill()
        await trio.sleep(100)
        them.air.carry(them.anna.number, Heard(name_of(them.boris.node, SALT), place))
        await trio.sleep(1)
        assert place in them.anna.book.places(them.boris.node)
        noted: list[str] = []
        them.anna.suppliers.on_address = lambda _supplier, address: noted.append(address)
        (relation,) = them.anna.suppliers._relations.values()
        them.anna.suppliers._note_address(relation, place)
        assert relation.row.address == place
        them.anna.suppliers._note_address(relation, "192.168.7.3:7000")
        assert noted == ["192.168.7.3:7000"]
        assert not can_be_announced(place)


@pytest.mark.slow
async def test_who_repeats_a_partners_name_from_everywhere_is_believed_a_few_times(autojump_clock: MockClock) -> None:
    async with two() as them:
        learnt: list[NodeId] = []
        them.anna.book.on_learnt.append(learnt.append)
        name = name_of(them.boris.node, SALT)
        for number in range(1000):
            them.air.carry(them.anna.number, Heard(name, f"10.9.{number % 250}.{number // 250}:9"))
            them.air.carry(them.anna.number, Heard(name_of(NodeId(number.to_bytes(32, "big")), SALT), "10.9.9.9:9"))
            await trio.sleep(0.1)
        assert NEWS_BURST <= len(learnt) <= NEWS_BURST + 10 + 1
        assert len(them.anna.book.places(them.boris.node)) <= MAX_NEARBY + 1
        assert len(them.anna.book._nearby) == 1
        assert them.are_together()


async def test_what_was_heard_in_another_network_is_not_dialled_in_this_one(autojump_clock: MockClock) -> None:
    async with two() as them:
        them.air.carry(them.anna.number, Heard(name_of(them.boris.node, SALT), "10.9.9.9:9"))
        await trio.sleep(1)
        assert "10.9.9.9:9" in them.anna.book.places(them.boris.node)
        them.anna.move("192.168.7.2")
        await trio.sleep(1)
        assert "10.9.9.9:9" not in them.anna.book.places(them.boris.node)


@pytest.mark.slow
async def test_who_looks_around_finds_everybody_who_listens(autojump_clock: MockClock) -> None:
    async with two(walled="anna") as them:
        them.anna.move("192.168.7.2")
        them.boris.move("192.168.7.3")
        await trio.sleep(30)
        numbers = ["127.0.0.1", "::1", "192.168.7.9"]
        assert await look_around(MemoryLan(them.air), numbers, 3, most=8) == ("192.168.7.3:7000",)
        assert await look_around(MemoryLan(them.air), ["192.168.8.9"], 3, most=8) == ()


async def test_who_looks_around_finds_who_has_link_local_ipv6_only(autojump_clock: MockClock) -> None:
    air = MemoryAir()
    here, there = MemoryLan(air), MemoryLan(air)
    there.join(["fe80::7%3"])

    async def answer() -> None:
        while True:
            if not (await there.hear()).name:  # a question
                await there.announce("somebody", "[fe80::7%3]:7000")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await look_around(here, ["127.0.0.1", "::1", "fe80::9%3"], 3, most=8) == ("[fe80::7%3]:7000",)
        nursery.cancel_scope.cancel()
