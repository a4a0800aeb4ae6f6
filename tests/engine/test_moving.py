"""Nodes that take other addresses are found again within a minute, by what was signed and by partners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment, record, wire
from bitdustfs.core.agreement import Wish
from bitdustfs.core.grace import NOTICE_S
from bitdustfs.core.record import DAY_S, Record
from bitdustfs.engine.addresses import MAX_NODES, OWNERS_NODES
from bitdustfs.engine.discovery import Discovery
from bitdustfs.engine.errand import ask_once
from bitdustfs.engine.relation import SILENCE_S
from bitdustfs.engine.whereabouts import NEWS_BURST, Informed
from bitdustfs.errors import PeerRefused
from bitdustfs.model import FragmentName, NodeId, Supplier
from bitdustfs.ports import Directory, Wall
from bitdustfs.testing.clock import RunningWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.directory import FakeDirectory
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import Break, MemoryNetwork
from bitdustfs.testing.swarm import make_identity

GIB = 1 << 30
NAMES = ("anna", "boris", "clara")
FOUND_S = 60.0


class Three:
    """Anna stores with Boris; both store with Clara."""

    def __init__(self, nursery: trio.Nursery, *, walled: str, names: tuple[str, ...]) -> None:
        self.network, self.wall = MemoryNetwork(), RunningWall()
        self.anna, self.boris, self.clara = self.all = [
            Daemon(name, self.network, nursery, self.wall, listens=walled != name, seed=seed)
            for seed, name in enumerate(names)
        ]

    async def agree(self) -> None:
        for one, other in ((self.anna, self.boris), (self.anna, self.clara), (self.boris, self.clara)):
            other.allowed[one.owner] = GIB
            if not other.address:
                other.dial[one.node] = [one.address]
                await other.until(lambda: bool(one.connections.of(other.node)))  # noqa: B023
            await one.hire(other, GIB)
        await self.anna.until(lambda: len(self.anna.suppliers.online()) == 2)
        for one in self.all:
            for other in self.all:
                await one.until(lambda: one is other or knows(one, other))  # noqa: B023
            one.dial.clear()

    def supplier(self) -> Supplier:
        return next(row for row in self.anna.rows if row.node == self.boris.node)

    async def until_together(self) -> float:
        """Wait until Anna can use Boris; how long that took."""
        since, number = trio.current_time(), self.supplier().supplier
        with trio.fail_after(10 * FOUND_S):
            while not self.can_use(number):
                await trio.sleep(0.1)
        return trio.current_time() - since

    def can_use(self, number: int) -> bool:
        live = [link for link in self.network.links() if not link.is_stranded]
        is_joined = any(link.joins(self.anna.node, self.boris.node) for link in live)
        return is_joined and number in self.anna.suppliers.online()


def knows(one: Daemon, other: Daemon) -> bool:
    found = one.book.record(other.node)
    return found is not None and record.addresses_of(found) == ((other.address,) if other.address else ())


@asynccontextmanager
async def three(*, walled: str = "", names: tuple[str, ...] = NAMES) -> AsyncIterator[Three]:
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            them = Three(nursery, walled=walled, names=names)
            await them.agree()
            yield them
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES, ("boris", "anna", "clara")])
async def test_supplier_that_moved_dials_its_customer(autojump_clock: MockClock, names: tuple[str, ...]) -> None:
    """Whichever of the two has the lower id, so that its own connection counts more."""
    async with three(names=names) as them:
        them.clara.kill()  # nobody else could tell
        noted: dict[int, str] = {}
        them.anna.suppliers.on_address = noted.__setitem__
        them.boris.move()
        assert await them.until_together() < 2 * SILENCE_S
        await them.anna.until(lambda: knows(them.anna, them.boris))
        await them.anna.until(lambda: noted == {them.supplier().supplier: them.boris.address})


@pytest.mark.slow
async def test_customer_that_moved_dials_again_at_once(autojump_clock: MockClock) -> None:
    async with three(walled="anna") as them:
        them.anna.move()
        assert await them.until_together() < SILENCE_S


@pytest.mark.slow
async def test_common_partner_tells_where_a_supplier_is_when_both_moved(autojump_clock: MockClock) -> None:
    async with three() as them:
        them.anna.move()
        them.boris.move()
        assert await them.until_together() < FOUND_S
        assert knows(them.anna, them.boris)


@pytest.mark.slow
async def test_customer_whom_nobody_can_dial_finds_a_supplier_that_moved(autojump_clock: MockClock) -> None:
    async with three(walled="anna") as them:
        them.boris.move()
        them.anna.suppliers.doubt(them.supplier().supplier)  # it would notice at its next request
        assert await them.until_together() < FOUND_S


@pytest.mark.slow
async def test_supplier_whom_nobody_can_dial_dials_its_customer_after_a_restart(autojump_clock: MockClock) -> None:
    async with three(walled="boris") as them:
        await trio.sleep(10)  # for the store
        them.boris.kill()
        await trio.sleep(600)
        them.boris.start()
        assert await them.until_together() < FOUND_S


@pytest.mark.slow
async def test_lookup_is_asked_when_no_partner_knows(autojump_clock: MockClock) -> None:
    async with three(walled="anna") as them:
        them.clara.kill()
        asked: list[NodeId] = []

        async def lookup(node: NodeId) -> bytes:
            asked.append(node)
            return them.boris.book.shown(node)

        them.anna.whereabouts.lookup = lookup
        them.boris.move()
        them.anna.suppliers.doubt(them.supplier().supplier)
        assert await them.until_together() < FOUND_S
        assert set(asked) <= {them.boris.node, them.clara.node}


@pytest.mark.slow
async def test_supplier_that_moved_is_found_through_the_hash_table_alone(autojump_clock: MockClock) -> None:
    """Nobody else knows it, and it does not dial: it has lost the address of its customer."""
    async with three(walled="anna") as them:
        them.clara.kill()
        directory = FakeDirectory(lambda: them.wall.now_ns() // 10**9)
        async with trio.open_nursery() as nursery:
            for seed, one in enumerate((them.anna, them.boris)):
                discovery = discovery_of(one, directory, them.wall, seed)
                nursery.start_soon(discovery.run)
            await trio.sleep(600)
            them.boris.move()
            them.anna.suppliers.doubt(them.supplier().supplier)
            assert await them.until_together() < FOUND_S
            assert knows(them.anna, them.boris)
            nursery.cancel_scope.cancel()


def discovery_of(one: Daemon, directory: Directory, wall: Wall, seed: int) -> Discovery:
    """What a process publishes of itself and asks, as `giving` assembles it."""

    def own() -> bytes:
        return one.book.own.raw if one.book.own is not None else b""

    discovery = Discovery(directory, wall, SeededEntropy(seed), own=own)
    one.whereabouts.lookup = discovery.lookup
    one.book.on_own.append(discovery.moved)
    return discovery


@pytest.mark.slow
async def test_address_that_a_supplier_answers_at_is_noted(autojump_clock: MockClock) -> None:
    async with three(walled="anna") as them:
        noted: dict[int, str] = {}
        them.anna.suppliers.on_address = noted.__setitem__
        them.boris.move()
        them.anna.suppliers.doubt(them.supplier().supplier)
        await them.until_together()
        assert noted == {them.supplier().supplier: them.boris.address}


@pytest.mark.slow
async def test_address_where_another_node_answers_is_tried_last(autojump_clock: MockClock) -> None:
    async with three(walled="anna") as them:
        old = them.boris.address
        them.network.apply(Break.SILENCE, them.anna.node, them.boris.node)
        them.boris.move()
        them.network.listen(make_identity("stranger").node, old)
        them.anna.suppliers.doubt(them.supplier().supplier)
        await them.anna.until(lambda: them.anna.book.places(them.boris.node, last=old)[-1] == old)
        await them.anna.until(lambda: knows(them.anna, them.boris))
        assert them.anna.book.places(them.boris.node, last=old) == (them.boris.address, old)


@pytest.mark.slow
async def test_addresses_are_known_after_a_restart(autojump_clock: MockClock) -> None:
    async with three() as them:
        before = them.anna.book.own
        await trio.sleep(10)  # for the store
        them.anna.kill()
        await trio.sleep(1)
        them.anna.start()
        assert knows(them.anna, them.boris)
        await trio.sleep(1)
        assert them.anna.book.own == before  # nothing has changed, so nothing is signed


@pytest.mark.slow
async def test_own_record_gets_a_higher_number_also_when_the_clock_was_set_back(autojump_clock: MockClock) -> None:
    async with three() as them:
        before = them.anna.book.own
        them.wall.move_s(-100_000)
        them.anna.move()
        await them.anna.until(lambda: them.anna.book.own != before)
        assert before is not None and them.anna.book.own is not None
        assert them.anna.book.own.sequence > before.sequence
        await them.boris.until(lambda: knows(them.boris, them.anna))  # though to Boris it is over


@pytest.mark.slow
async def test_own_record_is_signed_anew_before_it_is_over(autojump_clock: MockClock) -> None:
    async with three() as them:
        for _day in range(30):
            them.wall.move_s(DAY_S)
            for one in them.all:
                one.presence.look()  # it does so every hour
            await trio.sleep(10)
        for one in them.all:
            for other in them.all:
                found = one.book.record(other.node)
                assert found is not None and found.is_valid(them.wall.now_ns() // 10**9 + 5 * DAY_S)


# -- who is told what ---------------------------------------------------------------------------------------------


async def ask(them: Three, name: str, request: wire.Request, answer: type[wire.Answer]) -> wire.Answer:
    """What Clara answers to somebody of that name."""
    identity = make_identity(name)
    with trio.fail_after(60):
        done, _ = await ask_once(
            them.network.dialer(identity.node), identity, them.clara.node, them.clara.address, request, answer
        )
    return done


def signed(name: str, address: str, *, sequence: int = 1 << 40) -> Record:
    key = make_identity(name).key
    return record.sign_addresses(key, [address], sequence=sequence, expiry_s=1 << 40)


@pytest.mark.slow
async def test_stranger_is_told_nothing_and_tells_nothing(autojump_clock: MockClock) -> None:
    async with three() as them:
        with pytest.raises(PeerRefused):
            await ask(them, "stranger", wire.Where(them.boris.node), wire.There)
        with pytest.raises(PeerRefused):
            await ask(them, "stranger", wire.Here(signed("stranger", "192.0.2.7:1").raw, ""), wire.Done)
        assert them.clara.book.record(make_identity("stranger").node) is None


@pytest.mark.slow
async def test_partner_is_told_of_partners_only(autojump_clock: MockClock) -> None:
    async with three() as them:
        told = await ask(them, "anna", wire.Where(them.boris.node), wire.There)
        assert told == wire.There(them.boris.book.shown(them.boris.node))
        for name in ("stranger", "another"):
            nothing = await ask(them, "anna", wire.Where(make_identity(name).node), wire.There)
            assert nothing == wire.There(b"")


@pytest.mark.slow
async def test_nobody_tells_where_another_one_is(autojump_clock: MockClock) -> None:
    async with three() as them:
        with pytest.raises(PeerRefused, match="another node's"):
            await ask(them, "anna", wire.Here(signed("boris", "192.0.2.7:1").raw, ""), wire.Done)
        with pytest.raises(PeerRefused):
            await ask(them, "anna", wire.Here(b"x" * 200, ""), wire.Done)
        assert knows(them.clara, them.boris)


@pytest.mark.slow
async def test_older_record_changes_nothing(autojump_clock: MockClock) -> None:
    async with three() as them:
        await ask(them, "anna", wire.Here(signed("anna", "192.0.2.7:1", sequence=1).raw, ""), wire.Done)
        assert knows(them.clara, them.anna)
        await ask(them, "anna", wire.Here(signed("anna", "192.0.2.7:1").raw, ""), wire.Done)
        assert not knows(them.clara, them.anna)


@pytest.mark.slow
async def test_record_that_is_over_is_not_taken_from_a_third(autojump_clock: MockClock) -> None:
    async with three() as them:
        key = make_identity("boris").key
        over = record.sign_addresses(key, ["192.0.2.7:1"], sequence=1 << 40, expiry_s=1)
        assert not them.anna.book.learn(over, them.boris.owner)
        assert them.anna.book.learn(over, them.boris.owner, by_itself=True)
        assert them.anna.book.shown(them.boris.node) == b""  # and is not handed on


@pytest.mark.slow
async def test_one_owner_cannot_fill_the_address_book(autojump_clock: MockClock) -> None:
    async with three() as them:
        for number in range(3 * OWNERS_NODES):
            key = make_identity(f"anna {number}", owner="anna").key
            found = record.sign_addresses(key, ["192.0.2.7:1"], sequence=1, expiry_s=1 + number)
            them.clara.book.learn(found, them.anna.owner, by_itself=True)
        of_anna = [node for node, owner in them.clara.book.nodes() if owner == them.anna.owner]
        assert len(of_anna) == OWNERS_NODES
        assert knows(them.clara, them.boris)
        await trio.sleep(60)
        assert len(them.clara.addresses.kept) <= OWNERS_NODES + 2


@pytest.mark.slow
async def test_partner_who_moves_all_the_time_is_not_heard_all_the_time(autojump_clock: MockClock) -> None:
    """What he says is dialled, noted in the catalog, and said in the log."""
    async with three() as t:
        learnt: list[NodeId] = []
        t.anna.book.on_learnt.append(learnt.append)
        await trio.sleep(600)
        own = t.boris.book.own
        assert own is not None

        def tell(number: int) -> wire.Answer:
            assert own is not None
            moved = record.sign_addresses(
                t.boris.identity.key,
                [f"198.51.100.{number % 200 + 1}:7000"],
                sequence=own.sequence + number,
                expiry_s=own.expiry_s,
            )
            here = wire.Here(moved.raw, f"203.0.113.{number % 200 + 1}:0")
            return t.anna.whereabouts.hear(t.boris.identity.certificate, here)

        answers = [tell(number) for number in range(1, 300)]
        assert isinstance(answers[0], wire.Done)
        assert isinstance(answers[-1], wire.Refusal)
        assert len(learnt) <= NEWS_BURST
        await trio.sleep(60)
        assert isinstance(tell(300), wire.Done)


@pytest.mark.slow
async def test_former_friend_is_told_nothing_any_more(autojump_clock: MockClock) -> None:
    """The contract has ended, and nothing of his is there."""
    async with three() as t:
        await t.boris.accords.change(t.anna.owner, Wish(until_s=t.boris.clerk.now_s() + NOTICE_S))
        assert t.boris.is_partner(t.anna.owner)
        where = wire.Where(bytes(t.clara.node))
        caller, handler = t.anna.identity.certificate, Informed(t.boris.keeper, t.boris.whereabouts)
        assert handler.admit(caller, where) is None
        t.wall.move_s(NOTICE_S + 1)
        refusal = handler.admit(caller, where)
        assert refusal is not None and refusal.code is wire.Refused.NO_CONTRACT
        assert t.boris.book.shown(t.anna.node) == b""
        content = b"left behind"
        t.boris.shelf.put(t.anna.owner, FragmentName(b"n" * 32), fragment.root(content), content)
        assert handler.admit(caller, where) is None  # he must find what is still his


@pytest.mark.slow
async def test_network_that_invents_nodes_nearby_takes_no_memory(autojump_clock: MockClock) -> None:
    async with three() as t:
        for number in range(2 * MAX_NODES):
            t.anna.book.note_nearby(NodeId(number.to_bytes(32, "big")), "192.0.2.1:7000")
        assert len(t.anna.book._nearby) <= MAX_NODES
