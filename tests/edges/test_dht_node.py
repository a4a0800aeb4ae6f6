"""Nodes of the hash table among themselves: found under loss and churn, and never misled."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from dataclasses import replace

import pytest

from bitdustfs.core import datagram
from bitdustfs.core.datagram import Contact, Find, Found, Ping, Question, Said, Store, ask
from bitdustfs.core.record import DAY_S, Record
from bitdustfs.edges.dht_node import DhtNode
from bitdustfs.edges.dht_protocol import Endpoint, Protocol, may_name
from bitdustfs.edges.dht_table import Peer
from tests.edges.dht_swarm import NOW_S, RULES, key, record, started, swarm, with_networks


@pytest.mark.slow
def test_twenty_nodes_find_what_was_published_under_loss_and_churn() -> None:
    async def story() -> None:
        async with swarm(20, loss=0.1) as nodes:
            old, new, other = record(1, 1), record(1, 2), record(2)
            assert await nodes[3].store(old) > 0
            assert await nodes[4].store(other) > 0
            assert await nodes[17].find(old.id) == old
            for gone in (nodes[5], nodes[6], nodes[7], nodes[8], nodes[9], nodes[3]):
                gone.stop()
            come = [await started(number, loss=0.1) for number in (30, 31, 32)]
            nodes += come
            for node in come:
                await node.bootstrap([nodes[12].address])
            assert await come[0].store(new) > 0
            for seeker in (nodes[0], nodes[18], come[2]):
                assert await seeker.find(new.id) == new
                assert await seeker.find(other.id) == other
            assert await nodes[0].find(record(3).id) is None

    asyncio.run(story())


@pytest.mark.slow
def test_record_is_handed_on_when_those_who_kept_it_leave() -> None:
    async def story() -> None:
        async with swarm(6, rules=replace(RULES, refresh_s=0.3)) as nodes:
            published = record(1)
            await nodes[0].store(published)
            late = [await started(number) for number in range(10, 18)]
            nodes += late
            for node in late:
                await node.bootstrap([nodes[1].address])
            tasks = [asyncio.create_task(node.refresh()) for node in nodes[:6]]
            for node in nodes[:6]:  # all of them are due at once, for the date does not move in this test
                for each in node.kept:
                    node.kept.touch(each.id, NOW_S - 100)
            async with asyncio.timeout(60):
                while not any(node.kept.get(published.id, NOW_S) for node in late):
                    await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            for node in nodes[:6]:
                node.stop()
            assert await late[0].find(published.id) == published

    asyncio.run(story())


def test_record_goes_to_those_who_are_named_too_wherever_its_id_lies() -> None:
    async def story() -> None:
        async with swarm(3) as nodes:
            supplier = await started(9)
            nodes.append(supplier)
            assert await nodes[0].store(record(1), [supplier.address]) == 3
            assert supplier.kept.get(record(1).id, NOW_S) == record(1)

    asyncio.run(story())


def test_node_that_only_asked_is_known_to_those_it_asked() -> None:
    async def story() -> None:
        async with swarm(1) as nodes:
            newcomer = await started(9)
            nodes.append(newcomer)
            assert await newcomer.bootstrap([nodes[0].address]) == 1
            async with asyncio.timeout(60):
                while not nodes[0].contacts():
                    await asyncio.sleep(0.01)
            assert nodes[0].contacts() == [Contact(newcomer.node.id, newcomer.address)]

    asyncio.run(story())


# --- liars ------------------------------------------------------------------------------------------------------


class Lying(Protocol):
    """Answers each FIND with what it was given, and with ever nearer nodes that are not there."""

    shows: bytes = b""
    invented = 0

    def _said(self, question: Question, address: str, prefix: str) -> Said:
        if not isinstance(question, Find):
            return super()._said(question, address, prefix)
        near = []
        for _ in range(20):
            type(self).invented += 1
            number = type(self).invented
            near.append(Contact(question.target[:16] + number.to_bytes(4, "big"), f"127.7.{number % 250}.1:9"))
        return Found(self.shows if question.wants_record else b"", tuple(near[: 2 if question.wants_record else 20]))


class Liar(DhtNode):
    protocol_class = Lying

    def _create_protocol(self) -> Protocol:
        return Lying(self._key, self.kept, self.rules, wall_s=self._wall_s, now_s=self._now_s)


def forged(genuine: Record) -> bytes:
    """A higher number under the old signature."""
    return genuine.raw[:34] + (99).to_bytes(8, "big") + genuine.raw[42:]


LIES = {
    "forged": forged(record(1, 5)),
    "of another key": record(2, 99).raw,
    "older": record(1, 4).raw,
    "over": record(1, 99, expiry_s=NOW_S).raw,
    "endless": record(1, 99, expiry_s=NOW_S + 1000 * DAY_S).raw,
    "garbage": b"\x91" * 900,
}


@pytest.mark.slow
def test_reader_takes_the_newest_valid_record_though_most_nodes_lie() -> None:
    """F53: an eclipsed key."""

    async def story() -> None:
        async with swarm(2) as nodes:
            true = record(1, 5)
            for number, lie in enumerate(LIES.values()):
                liar = await started(50 + number, made=Liar)
                assert isinstance(liar.protocol, Lying)
                liar.protocol.shows = lie
                nodes.append(liar)
                await nodes[0].protocol.ask(_endpoint(liar), Ping())
            nodes[1].kept.put(true, "", NOW_S)
            asked = 0

            async def counted(endpoint: Endpoint, question: Question, expected: bytes | None = None) -> object:
                nonlocal asked
                asked += 1
                return await plain(endpoint, question, expected)

            plain = nodes[0].protocol.ask
            nodes[0].protocol.ask = counted  # type: ignore[method-assign, assignment]
            assert await nodes[0].find(true.id) == true
            assert asked <= RULES.most_asked + 2 * RULES.neighbours
            assert {each.id for each in nodes[0].protocol.router.peers()} <= {node.node.id for node in nodes}

    asyncio.run(story())


def test_address_that_lies_about_its_id_is_not_the_node_it_claims_to_be() -> None:
    async def story() -> None:
        async with swarm(3) as nodes:
            seeker, honest, other = nodes
            got = await seeker.protocol.ask(_endpoint(other), Ping(), honest.node.id)
            assert got is None
            assert seeker.protocol.counts["impostor"] == 1
            known = seeker.protocol.router.known(honest.node.id)
            assert known is not None
            assert known.address == honest.address

    asyncio.run(story())


def test_answer_from_another_address_than_was_asked_is_not_taken() -> None:
    async def story() -> None:
        async with swarm(1) as nodes:
            victim = nodes[0]
            silent = _socket("127.0.60.1")
            asking = asyncio.create_task(victim.protocol.ask(silent.getsockname(), Ping()))
            question = await asyncio.get_running_loop().sock_recv(silent, 2000)
            number = datagram.look(question)[1]
            spoofed = datagram.answer(key(7), number, bytes(8), datagram.Pong(), room=1200)
            with _socket("127.0.61.1") as elsewhere:
                elsewhere.sendto(spoofed, _endpoint(victim))
                assert await asking is None
            silent.close()
            assert victim.protocol.counts["unasked"] == 1
            assert victim.contacts() == []

    asyncio.run(story())


# --- limits -----------------------------------------------------------------------------------------------------


def test_record_is_not_stored_without_a_token_for_the_address() -> None:
    async def story() -> None:
        async with swarm(2) as nodes:
            keeper, stranger = nodes
            got = await stranger.protocol.ask(_endpoint(keeper), Ping())
            assert got is not None
            assert not await stranger._store(_peer(keeper), b"a guess!", record(1))
            other = await started(40)
            nodes.append(other)
            assert not await other._store(_peer(keeper), got.token, record(1)), "the token of another address"
            assert keeper.protocol.counts["token"] == 2
            assert len(keeper.kept) == 0
            assert await stranger._store(_peer(keeper), got.token, record(1))

    asyncio.run(story())


def test_one_network_gets_few_places_in_the_table() -> None:
    async def story() -> None:
        async with swarm(1, rules=with_networks()) as nodes:
            crowd = []
            for number in range(12):
                one = DhtNode(key(2000 + number), RULES, wall_s=lambda: NOW_S)
                await one.listen(0, f"127.0.70.{number + 1}")
                crowd.append(one)
            nodes += crowd
            for each in crowd:
                await nodes[0].protocol.ask(_endpoint(each), Ping())
            assert len(nodes[0].contacts()) == RULES.bucket_prefix

    asyncio.run(story())


def test_stranger_who_asks_too_much_gets_no_answer_and_others_do() -> None:
    async def story() -> None:
        async with swarm(2, rules=replace(RULES, prefix_questions_per_s=1.0, prefix_burst=20.0)) as nodes:
            with _socket("127.0.80.1") as flooder:
                for _ in range(200):
                    flooder.sendto(ask(secrets.token_bytes(16), Ping()), _endpoint(nodes[0]))
                async with asyncio.timeout(60):
                    while nodes[0].protocol.counts["too many"] < 150:
                        await asyncio.sleep(0.01)
            assert await nodes[1].protocol.ask(_endpoint(nodes[0]), Ping()) is not None

    asyncio.run(story())


@pytest.mark.parametrize(
    "question", [Ping(), Find(bytes(20), True), Store(bytes(8), b"r"), Store(bytes(8), bytes(1000))]
)
def test_nothing_comes_back_that_is_more_than_three_times_what_asked_for_it(question: Question) -> None:
    async def story() -> None:
        async with swarm(1) as nodes:
            full = nodes[0]
            for number in range(1, 21):
                full.protocol.router.add_contact(Peer(bytes([number * 12] * 20), f"127.9.{number}.1", 9))
            full.kept.put(record(1), "", NOW_S)
            if isinstance(question, Find):
                asked = ask(bytes(16), Find(record(1).id, True))
            else:
                asked = ask(bytes(16), question)
            with _socket("127.0.81.1") as asker:
                asker.sendto(asked, _endpoint(full))
                asker.sendto(ask(b"n" * 16, Ping()), _endpoint(full))
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(60):
                    while datagram.look(got := await loop.sock_recv(asker, 2000))[1] != b"n" * 16:
                        assert len(got) <= 3 * len(asked)

    asyncio.run(story())


def test_private_address_is_not_named_by_somebody_outside() -> None:
    assert may_name("8.8.8.8:1", "9.9.9.9:1")
    assert may_name("192.168.1.1:1", "192.168.1.2:1")
    assert may_name("127.0.0.1:1", "9.9.9.9:1")
    assert not may_name("8.8.8.8:1", "192.168.1.2:1")
    assert not may_name("8.8.8.8:1", "127.0.0.1:1")
    assert not may_name("[2a00::1]:1", "8.8.8.8:1")


def test_kademlias_own_ways_to_store_and_to_load_are_closed() -> None:
    node = DhtNode(key(1), RULES)
    for way in (node.save_state, node.set, node.set_digest, node.get, node.load_state):
        with pytest.raises(NotImplementedError):
            way("x")
    assert not hasattr(node.protocol, "stun"), "kademlia's own sends whatever attribute is asked for to another node"


# --- a flood of everything ----------------------------------------------------------------------------------------


def _messages(count: int, kept: Record, given: bytes) -> list[bytes]:
    """What somebody sends who wishes nobody well. `given` is a token that is good for him."""
    dice = random.Random(5)
    number = secrets.token_bytes(16)
    genuine = ask(number, Store(given, kept.raw))
    replayed = ask(number, Store(given, record(1, 1).raw))
    kinds = [
        lambda: dice.randbytes(dice.randrange(1, 1500)),
        lambda: b"\x00" + dice.randbytes(20) + b"\x91" * 2000,  # a nest bomb, as kademlia's own would read it
        lambda: b"\x00" + dice.randbytes(20) + b"\x92\xa5store\x93\x90\x90\x90",  # lists where keys should be
        lambda: b"\x80" * 60_000,
        lambda: ask(dice.randbytes(16), Store(given, forged(record(1, 2)))),
        lambda: ask(dice.randbytes(16), Store(dice.randbytes(8), kept.raw)),
        lambda: replayed,
        lambda: genuine[: dice.randrange(len(genuine))],
        lambda: genuine + b"\0",
        lambda: ask(dice.randbytes(16), Find(dice.randbytes(20), True)),
        lambda: datagram.answer(key(9), dice.randbytes(16), given, Found(kept.raw), room=1200),
        lambda: genuine[:5] + dice.randbytes(len(genuine) - 5),
    ]
    return [kinds[each % len(kinds)]() for each in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1200, pytest.param(10_000, marks=pytest.mark.long)])
def test_ten_thousand_hostile_messages_leave_nothing_behind(count: int) -> None:
    """F53: forged, oversized, unhashable, replayed and spoofed."""

    async def story() -> None:
        many = replace(
            RULES, records=40, prefix_records=10, questions_per_s=1e6, prefix_questions_per_s=1e6, prefix_burst=1e6,
            datagrams_per_s=1e6,
        )  # fmt: skip
        async with swarm(3, rules=many) as nodes:
            target, friend, _third = nodes
            await friend.store(record(1, 2))
            enemy = await started(90, rules=many)
            nodes.append(enemy)
            got = await enemy.protocol.ask(_endpoint(target), Ping())
            assert got is not None
            for who in range(100, 160):  # records of keys that cost nothing
                await enemy._store(_peer(target), got.token, record(who))
            for each in _messages(count, record(1, 2), got.token):
                enemy.transport.sendto(each, _endpoint(target))
                await asyncio.sleep(0)
            assert await friend.protocol.ask(_endpoint(target), Ping()) is not None
            assert len(target.kept) <= 1 + many.prefix_records
            assert len(target.protocol.router) <= 3
            counts = target.protocol.counts
            assert counts["malformed"] > count // 3
            assert min(counts[each] for each in ("forged", "token", "refused", "unasked")) > count // 20
            for seeker in (friend, target):
                assert await seeker.find(record(1).id) == record(1, 2)

    asyncio.run(story())


def _endpoint(node: DhtNode) -> Endpoint:
    host, port = node.transport.get_extra_info("sockname")
    return host, port


def _peer(node: DhtNode) -> Peer:
    return Peer(node.node.id, *_endpoint(node))


def _socket(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((host, 0))
    return made
