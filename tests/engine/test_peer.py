"""Peers: one connection, requests in both directions, and nothing that a peer does hurts more than itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.engine import peer as peer_module
from bitdustfs.engine.budget import Budget, Memory
from bitdustfs.engine.frames import STALL_S
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.peer import MAX_IN_FLIGHT, Peer
from bitdustfs.errors import PeerError, PeerFull, PeerGone, PeerLacks, PeerRefused, ProtocolViolation
from bitdustfs.model import LEAF_BYTES, OwnerId, Role
from bitdustfs.testing.network import Break, Line, MemoryLink, MemoryNetwork
from bitdustfs.testing.swarm import make_identity

ALICE = make_identity("alice")
BOB = make_identity("bob")
MALLORY = make_identity("mallory")
NAME = b"n" * 32
ROOT = b"r" * 32
A_PING, A_PUT = 11, 12  # steps of tasks, of both sides


class Script:
    """A handler that does what a test says, and remembers."""

    def __init__(self, act: Callable[[wire.Request, bytes | memoryview], object] | None = None) -> None:
        self.act = act
        self.gate: trio.Event | None = None
        self.refuse: wire.Refusal | None = None
        self.got: list[tuple[wire.Request, bytes | memoryview]] = []
        self.callers: list[Certificate] = []
        self.open = 0

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if self.refuse is None:
            self.open += 1
        return self.refuse

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self.open -= 1

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes, ...]]:
        self.callers.append(caller)
        self.got.append((request, body))
        if self.gate is not None:
            await self.gate.wait()
        if self.act is not None:
            self.act(request, body)
        if isinstance(request, wire.Get):
            return wire.Found(4, 0), (b"le", b"af")
        return wire.Done(), ()


@asynccontextmanager
async def links(network: MemoryNetwork | None = None) -> AsyncIterator[tuple[MemoryLink, MemoryLink]]:
    """The two ends of a link from Alice to Bob."""
    network = network or MemoryNetwork()
    listener = network.listen(BOB.node, "bob:1")
    with trio.fail_after(10_000):
        yield await network.dialer(ALICE.node).dial("bob:1", BOB.node), await listener.accept()


@asynccontextmanager
async def peers(
    handler: Handler | None = None,
    *,
    network: MemoryNetwork | None = None,
    memory: Memory | None = None,
    alices: Handler | None = None,
) -> AsyncIterator[tuple[Peer, Peer]]:
    """Alice's peer (who is Bob) and Bob's peer (who is Alice), greeted and running."""
    async with links(network) as (near, far), trio.open_nursery() as nursery:
        to_bob, to_alice = Peer(near, ALICE, alices), Peer(far, BOB, handler, memory)
        async with trio.open_nursery() as greeting:
            greeting.start_soon(to_bob.greet)
            greeting.start_soon(to_alice.greet)
        nursery.start_soon(to_bob.run)
        nursery.start_soon(to_alice.run)
        yield to_bob, to_alice
        nursery.cancel_scope.cancel()


def hello_of(identity: Identity, **changes: object) -> bytes:
    hello = wire.Hello(wire.PROTOCOL_VERSION, identity.certificate.raw, (), "test")
    fields = {"version": hello.version, "certificate": hello.certificate, "features": (), "software": "test"}
    return wire.encode(0, wire.Hello(**{**fields, **changes}))  # type: ignore[arg-type]


@asynccontextmanager
async def bob_with_raw_alice(handler: Handler | None = None) -> AsyncIterator[tuple[MemoryLink, Peer]]:
    """A greeted Bob, and the bare link of an Alice who may send what she likes."""
    async with links() as (near, far), trio.open_nursery() as nursery:
        bob = Peer(far, BOB, handler)
        await near.send_all(hello_of(ALICE))
        await bob.greet()
        nursery.start_soon(bob.run)
        await near.receive_some(10_000)
        yield near, bob
        nursery.cancel_scope.cancel()


async def assert_ended(link: MemoryLink, peer: Peer, kind: type[PeerError] = ProtocolViolation) -> None:
    """The other side ends the connection, for that reason."""
    try:
        while await link.receive_some(100_000):
            pass
    except PeerGone:
        pass
    await peer.closed.wait()
    assert isinstance(peer.ended, kind)


# -- HELLO ----------------------------------------------------------------------------------------------------


async def test_hello_brings_the_verified_owner(autojump_clock: MockClock) -> None:
    async with peers() as (to_bob, to_alice):
        assert (to_bob.node, to_bob.owner) == (BOB.node, BOB.owner)
        assert (to_alice.node, to_alice.owner) == (ALICE.node, ALICE.owner)
        assert to_alice.certificate.role is Role.WRITER


@pytest.mark.parametrize(
    "first",
    [
        wire.encode(1, wire.Ping()),
        wire.encode(1, wire.Done()),
        wire.encode(1, wire.Hello(wire.PROTOCOL_VERSION, ALICE.certificate.raw, (), "")),
        hello_of(ALICE, version=wire.PROTOCOL_VERSION + 1),
        hello_of(ALICE, certificate=b""),
        hello_of(ALICE, certificate=ALICE.certificate.raw[:-1] + b"\0"),
        hello_of(MALLORY),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        b"\0\0\0\1\0\0\0\0\xc1",
    ],
    ids=["ping", "answer", "id", "version", "none", "forged", "another node's", "http", "garbage", "no message"],
)
async def test_first_message_must_be_a_good_hello(autojump_clock: MockClock, first: bytes) -> None:
    async with links() as (near, far):
        await near.send_all(first)
        bob = Peer(far, BOB)
        with pytest.raises(ProtocolViolation):
            await bob.greet()
        await assert_ended(near, bob)


async def test_nothing_is_asked_before_hello(autojump_clock: MockClock) -> None:
    script = Script()
    async with links() as (near, far):
        bob = Peer(far, BOB, script)
        await near.send_all(wire.encode(1, wire.Get(NAME, 0, 1, False)))
        with pytest.raises(ProtocolViolation):
            await bob.greet()
    assert script.got == []


async def test_hello_that_does_not_come_ends_at_the_callers_deadline(autojump_clock: MockClock) -> None:
    async with links() as (near, far):
        bob = Peer(far, BOB)
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(10):
                await bob.greet()
        await assert_ended(near, bob, PeerGone)


async def test_second_hello_ends_the_connection(autojump_clock: MockClock) -> None:
    async with bob_with_raw_alice() as (alice, bob):
        await alice.send_all(hello_of(ALICE))
        await assert_ended(alice, bob)


# -- requests -------------------------------------------------------------------------------------------------


async def test_both_sides_ask_whoever_dialled(autojump_clock: MockClock) -> None:
    bobs, alices = Script(), Script()
    async with peers(bobs, alices=alices) as (to_bob, to_alice):
        assert await to_bob.request(wire.Ping(), wire.Done) == (wire.Done(), b"")
        found, body = await to_alice.request(wire.Get(NAME, 0, 1, False), wire.Found)
        assert (found, body) == (wire.Found(4, 0), b"leaf")
    assert [c.node for c in bobs.callers] == [ALICE.node]
    assert [c.node for c in alices.callers] == [BOB.node]


async def test_long_bodies_arrive_whole(autojump_clock: MockClock) -> None:
    script = Script()
    body = bytes(range(256)) * 8_000
    async with peers(script) as (to_bob, _):
        await to_bob.request(wire.Put(NAME, ROOT, len(body), 1, 0), wire.Done, memoryview(body))
    assert script.got == [(wire.Put(NAME, ROOT, len(body), 1, 0), body)]
    assert script.open == 0


async def test_requests_cost_few_turns_of_the_loop(autojump_clock: MockClock) -> None:
    """Each costs as much of the processor as a message does, here and at the supplier."""
    async with peers(Script()) as (bob, _):
        with counted_steps() as steps:
            for _ in range(10):
                await bob.request(wire.Ping(), wire.Done)
        pings = len(steps)
        with counted_steps() as steps:
            for _ in range(10):
                await bob.request(wire.Put(NAME, ROOT, 100_000, 1, 0), wire.Done, b"x" * 100_000)
        assert pings <= 10 * A_PING
        assert len(steps) <= 10 * A_PUT


@contextmanager
def counted_steps() -> Iterator[list[str]]:
    """The steps of all tasks."""
    names: list[str] = []

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            names.append(task.name)

    count = Count()
    trio.lowlevel.add_instrument(count)
    try:
        yield names
    finally:
        trio.lowlevel.remove_instrument(count)


async def test_answers_come_out_of_order(autojump_clock: MockClock) -> None:
    script = Script()
    script.gate = trio.Event()
    order: list[str] = []

    async def ask(to_bob: Peer, request: wire.Request, answer: type[wire.Answer]) -> None:
        await to_bob.request(request, answer)
        order.append(type(request).__name__)

    async with peers(script) as (to_bob, _), trio.open_nursery() as nursery:
        nursery.start_soon(ask, to_bob, wire.Get(NAME, 0, 1, False), wire.Found)
        await trio.sleep(1)
        gate, script.gate = script.gate, None
        await ask(to_bob, wire.Ping(), wire.Done)
        gate.set()
    assert order == ["Ping", "Get"]


@pytest.mark.parametrize(
    "code,kind",
    [
        (wire.Refused.NO_CONTRACT, PeerRefused),
        (wire.Refused.QUOTA, PeerFull),
        (wire.Refused.DISK_FULL, PeerFull),
        (wire.Refused.NOT_FOUND, PeerLacks),
        (wire.Refused.UNAVAILABLE, PeerError),
        (wire.Refused.BAD_REQUEST, PeerRefused),
    ],
)
async def test_refusal_is_an_error_of_its_kind(
    autojump_clock: MockClock, code: wire.Refused, kind: type[PeerError]
) -> None:
    script = Script()
    script.refuse = wire.Refusal(code, "bad\x1b[2J")
    async with peers(script) as (to_bob, _):
        with pytest.raises(PeerError, match=r"bad\\x1b\[2J") as caught:
            await to_bob.request(wire.Ping(), wire.Done)
        assert type(caught.value) is kind
        assert to_bob.ended is None


async def test_refused_body_is_not_taken_in_and_the_connection_goes_on(autojump_clock: MockClock) -> None:
    script = Script()
    script.refuse = wire.Refusal(wire.Refused.QUOTA, "")
    memory = Memory(inbound_bytes=1)
    await memory.inbound.take(1, BOB.owner)  # a body that asked for room would wait for ever
    async with peers(script, memory=memory) as (to_bob, _):
        with pytest.raises(PeerFull):
            await to_bob.request(wire.Put(NAME, ROOT, 600_000, 1, 0), wire.Done, bytes(600_000))
        script.refuse = None
        await to_bob.request(wire.Ping(), wire.Done)
    assert script.got == [(wire.Ping(), b"")]


async def test_fault_in_a_handler_costs_one_request(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(request: wire.Request, body: bytes | memoryview) -> None:
        raise ZeroDivisionError

    script = Script(explode)
    async with peers(script) as (to_bob, to_alice):
        with pytest.raises(PeerError):
            await to_bob.request(wire.Ping(), wire.Done)
        script.act = None
        await to_bob.request(wire.Ping(), wire.Done)
        assert to_alice.ended is None
    assert script.open == 0
    assert "ZeroDivisionError" in caplog.text


async def test_dead_link_ends_every_request_with_peer_gone(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    script = Script()
    script.gate = trio.Event()
    gone: list[BaseException] = []

    async def ask(to_bob: Peer) -> None:
        try:
            await to_bob.request(wire.Ping(), wire.Done)
        except PeerGone as error:
            gone.append(error)

    async with peers(script, network=network) as (to_bob, to_alice):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, to_bob)
            await trio.sleep(1)
            network.apply(Break.CUT, ALICE.node, BOB.node)
        await to_bob.closed.wait()
        await to_alice.closed.wait()
        with pytest.raises(PeerGone):
            await to_bob.request(wire.Ping(), wire.Done)
    assert len(gone) == 5
    assert script.open == 0


async def test_request_given_up_while_waiting_leaves_the_connection_whole(autojump_clock: MockClock) -> None:
    script = Script()
    script.gate = trio.Event()
    async with peers(script) as (to_bob, _):
        with trio.move_on_after(5):
            await to_bob.request(wire.Get(NAME, 0, 1, False), wire.Found)
        script.gate.set()
        script.gate = None
        await trio.sleep(1)
        await to_bob.request(wire.Ping(), wire.Done)
        assert to_bob.ended is None


async def test_request_given_up_while_sending_ends_the_connection(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(Line(latency_s=0.01, bytes_per_s=100_000))
    async with peers(Script(), network=network) as (to_bob, to_alice):
        with trio.move_on_after(5):
            await to_bob.request(wire.Put(NAME, ROOT, 4_000_000, 1, 0), wire.Done, bytes(4_000_000))
        await to_bob.closed.wait()
        await to_alice.closed.wait()
        assert isinstance(to_bob.ended, PeerGone)


async def test_request_given_up_before_its_turn_sends_nothing(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(Line(latency_s=0.01, bytes_per_s=1_000_000))
    script = Script()
    async with peers(script, network=network) as (to_bob, _), trio.open_nursery() as nursery:
        body = bytes(4_000_000)
        nursery.start_soon(to_bob.request, wire.Put(NAME, ROOT, len(body), 1, 0), wire.Done, body)
        await trio.sleep(0.1)
        with trio.move_on_after(1):
            await to_bob.request(wire.Ping(), wire.Done)
    assert [type(request) for request, _ in script.got] == [wire.Put]


async def test_more_requests_than_allowed_wait_for_answers(autojump_clock: MockClock) -> None:
    script = Script()
    script.gate = trio.Event()
    async with peers(script) as (to_bob, _), trio.open_nursery() as nursery:
        for _ in range(3 * MAX_IN_FLIGHT):
            nursery.start_soon(to_bob.request, wire.Ping(), wire.Done)
        await trio.sleep(1)
        assert len(script.got) == MAX_IN_FLIGHT
        script.gate.set()
    assert len(script.got) == 3 * MAX_IN_FLIGHT


@pytest.mark.slow
async def test_two_busy_peers_do_not_lock_each_other_up(autojump_clock: MockClock) -> None:
    """Both send long bodies, and ask for long answers, on a line that holds little."""
    network = MemoryNetwork(Line(latency_s=0.05, bytes_per_s=5_000_000))
    body = bytes(700_000)

    class Long(Script):
        async def answer(
            self, caller: Certificate, request: wire.Request, body: bytes | memoryview
        ) -> tuple[wire.Answer, tuple[bytes, ...]]:
            await trio.sleep(0.01)
            if isinstance(request, wire.Get):
                return wire.Found(700_000, 0), (bytes(700_000),)
            return wire.Done(), ()

    async def ask(peer: Peer) -> None:
        await peer.request(wire.Put(NAME, ROOT, len(body), 1, 0), wire.Done, body)
        _found, leaves = await peer.request(wire.Get(NAME, 0, 43, False), wire.Found)
        assert len(leaves) == 700_000

    memory = Memory(inbound_bytes=1_000_000, outbound_bytes=1_000_000)
    async with peers(Long(), network=network, memory=memory, alices=Long()) as (to_bob, to_alice):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask, to_bob)
                nursery.start_soon(ask, to_alice)


# -- peers that break the rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        wire.encode(5, wire.Done()),
        b"\xff" * 8,
        b"\x00\x01\x00\x01" + b"\0" * 4,
        b"\0\0\0\x0a\xff\xff\xff\xff",
        b"\0\0\xea\x60\0\0\0\0" + b"\x91" * 60_000,
    ],
    ids=["answer to nothing", "length bomb", "header too long", "body bomb", "nesting bomb"],
)
async def test_broken_protocol_ends_the_connection(
    autojump_clock: MockClock, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with bob_with_raw_alice() as (alice, bob):
        await alice.send_all(message)
        await assert_ended(alice, bob)
    assert len([r for r in caplog.records if r.name == peer_module.log.name]) == 1


async def test_answer_longer_than_asked_ends_the_connection(autojump_clock: MockClock) -> None:
    async with bob_with_raw_alice() as (alice, bob), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(PeerGone):
                await bob.request(wire.Get(NAME, 0, 1, False), wire.Found)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await alice.send_all(wire.encode(1, wire.Found(100_000, 0), 100_000))
        await assert_ended(alice, bob)


async def test_answer_of_another_kind_ends_the_connection(autojump_clock: MockClock) -> None:
    async with bob_with_raw_alice() as (alice, bob), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(ProtocolViolation):
                await bob.request(wire.Stat(), wire.Status)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await alice.send_all(wire.encode(1, wire.Done()))
        await assert_ended(alice, bob)


async def test_body_that_stops_coming_ends_the_connection(autojump_clock: MockClock) -> None:
    script = Script()
    async with bob_with_raw_alice(script) as (alice, bob):
        await alice.send_all(wire.encode(1, wire.Put(NAME, ROOT, 1000, 1, 0), 1000) + b"some")
        await assert_ended(alice, bob, PeerGone)
        assert bob.memory.inbound.free_bytes == Memory().inbound.free_bytes
    assert script.open == 0


async def test_peer_that_does_not_read_is_given_up(autojump_clock: MockClock) -> None:
    class Long(Script):
        async def answer(
            self, caller: Certificate, request: wire.Request, body: bytes | memoryview
        ) -> tuple[wire.Answer, tuple[bytes, ...]]:
            return wire.Found(4_000_000, 0), (bytes(4_000_000),)

    async with bob_with_raw_alice(Long()) as (alice, bob):
        await alice.send_all(wire.encode(1, wire.Get(NAME, 0, 500, False)))
        await bob.closed.wait()
        assert isinstance(bob.ended, PeerGone)
        assert bob.memory.outbound.free_bytes == Memory().outbound.free_bytes


@pytest.mark.slow
async def test_flood_of_requests_is_not_read(autojump_clock: MockClock) -> None:
    script = Script()
    script.gate = trio.Event()
    async with bob_with_raw_alice(script) as (alice, bob):
        with trio.move_on_after(5):
            for number in range(1_000_000):
                await alice.send_all(wire.encode(number, wire.Stat()))
        assert len(script.got) == MAX_IN_FLIGHT
        assert bob.ended is None


# -- memory ---------------------------------------------------------------------------------------------------


async def test_bodies_wait_for_memory(autojump_clock: MockClock) -> None:
    script = Script()
    script.gate = trio.Event()
    memory = Memory(inbound_bytes=1_000_000)
    async with peers(script, memory=memory) as (to_bob, _), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(to_bob.request, wire.Put(NAME, ROOT, 100_000, 1, 0), wire.Done, bytes(100_000))
        await trio.sleep(1)
        assert len(script.got) == 2
        assert memory.inbound.free_bytes == 800_000  # of one owner's share two bodies have room
        script.gate.set()
    assert len(script.got) == 5
    assert memory.inbound.free_bytes == 1_000_000


class Shelf(Script):
    """Answers GET with so many bytes."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes, ...]]:
        await super().answer(caller, request, body)
        return wire.Found(self.length, 0), (bytes(self.length),)


@asynccontextmanager
async def bob_with_two_customers(handler: Handler, memory: Memory) -> AsyncIterator[tuple[MemoryLink, Peer, Peer]]:
    """The bare link of a Mallory and who Mallory is to Bob; and Alice's peer, who is the same Bob."""
    network = MemoryNetwork()
    listener = network.listen(BOB.node, "bob:1")
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            mean = await network.dialer(MALLORY.node).dial("bob:1", BOB.node)
            to_mallory = Peer(await listener.accept(), BOB, handler, memory)
            await mean.send_all(hello_of(MALLORY))
            await to_mallory.greet()
            await mean.receive_some(10_000)
            to_bob = Peer(await network.dialer(ALICE.node).dial("bob:1", BOB.node), ALICE)
            to_alice = Peer(await listener.accept(), BOB, handler, memory)
            async with trio.open_nursery() as greeting:
                greeting.start_soon(to_bob.greet)
                greeting.start_soon(to_alice.greet)
            for peer in (to_mallory, to_bob, to_alice):
                nursery.start_soon(peer.run)
            yield mean, to_mallory, to_bob
            nursery.cancel_scope.cancel()


async def test_customer_who_does_not_read_keeps_nobody_else_waiting(autojump_clock: MockClock) -> None:
    memory = Memory(outbound_bytes=16_000_000)
    async with bob_with_two_customers(Shelf(244 * LEAF_BYTES), memory) as (mean, to_mallory, to_bob):
        for number in range(20):
            await mean.send_all(wire.encode(number, wire.Get(NAME, 0, 244, False)))
        await trio.sleep(1)
        assert memory.outbound.free_bytes == 16_000_000 - 244 * LEAF_BYTES
        with trio.fail_after(1):
            await to_bob.request(wire.Get(NAME, 0, 244, False), wire.Found)
        assert to_mallory.ended is None


async def test_customer_whose_bodies_do_not_come_keeps_nobody_else_waiting(autojump_clock: MockClock) -> None:
    memory = Memory(inbound_bytes=1_000_000)
    async with bob_with_two_customers(Script(), memory) as (mean, to_mallory, to_bob):
        await mean.send_all(wire.encode(1, wire.Put(NAME, ROOT, 800_000, 1, 0), 800_000) + b"x")
        await trio.sleep(1)
        assert memory.inbound.free_bytes == 200_000
        with trio.fail_after(1):
            await to_bob.request(wire.Put(NAME, ROOT, 200_000, 1, 0), wire.Done, bytes(200_000))
        assert to_mallory.ended is None


async def test_answer_holds_no_more_memory_than_its_length(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(Line(latency_s=10))
    async with peers(Shelf(2_000_000), network=network) as (to_bob, to_alice), trio.open_nursery() as nursery:
        nursery.start_soon(to_bob.request, wire.Get(NAME, 0, 2**32 - 1, False), wire.Found)
        await trio.sleep(15)
        assert Memory().outbound.free_bytes - to_alice.memory.outbound.free_bytes == 2_000_000


async def test_long_body_that_drips_is_given_up_soon(autojump_clock: MockClock) -> None:
    script = Script()
    async with bob_with_raw_alice(script) as (alice, bob):
        await alice.send_all(wire.encode(1, wire.Put(NAME, ROOT, 8_000_000, 1, 0), 8_000_000))
        start = trio.current_time()
        while bob.ended is None:
            await alice.send_all(bytes(1000))
            await trio.sleep(1)
        assert 30 <= trio.current_time() - start < 40
    assert script.open == 0


async def test_long_body_on_a_slow_line_arrives(autojump_clock: MockClock) -> None:
    script = Script()
    network = MemoryNetwork(Line(latency_s=1, bytes_per_s=20_000))
    async with peers(script, network=network) as (to_bob, _):
        await to_bob.request(wire.Put(NAME, ROOT, 8_000_000, 1, 0), wire.Done, bytes(8_000_000))
    assert [len(body) for _, body in script.got] == [8_000_000]


async def test_reader_who_sips_is_given_up(autojump_clock: MockClock) -> None:
    async with bob_with_raw_alice(Shelf(8_000_000)) as (alice, bob):
        await alice.send_all(wire.encode(1, wire.Get(NAME, 0, 500, False)))
        with trio.fail_after(300):
            while bob.ended is None:
                await alice.receive_some(5_000)
                await trio.sleep(1)
        assert bob.memory.outbound.free_bytes == Memory().outbound.free_bytes


async def test_budget_serves_in_order_and_survives_giving_up(autojump_clock: MockClock) -> None:
    budget = Budget(10)
    got: list[int] = []

    async def take(count: int, owner: OwnerId) -> None:
        await budget.take(count, owner)
        got.append(count)

    await budget.take(8, BOB.owner)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await budget.take(5, ALICE.owner)
        nursery.start_soon(take, 4, ALICE.owner)
        await wait_all_tasks_blocked()
        nursery.start_soon(take, 2, MALLORY.owner)
        await wait_all_tasks_blocked()
        assert got == []
        budget.give(3, BOB.owner)
        await wait_all_tasks_blocked()
        assert got == [4]
        budget.give(5, BOB.owner)
    assert got == [4, 2]
    await budget.take(0, BOB.owner)
    assert budget.free_bytes == 4


async def test_owner_with_his_share_of_the_budget_waits_in_order_and_alone(autojump_clock: MockClock) -> None:
    budget = Budget(40)
    got: list[tuple[str, int]] = []

    async def take(who: str, count: int, owner: OwnerId) -> None:
        await budget.take(count, owner)
        got.append((who, count))

    await budget.take(8, BOB.owner)
    async with trio.open_nursery() as nursery:
        for who, count, owner in (("bob", 5, BOB.owner), ("bob", 2, BOB.owner), ("alice", 10, ALICE.owner)):
            nursery.start_soon(take, who, count, owner)
            await wait_all_tasks_blocked()
        assert got == [("alice", 10)]
        budget.give(3, BOB.owner)
        await wait_all_tasks_blocked()
        assert got == [("alice", 10), ("bob", 5)]
        budget.give(2, BOB.owner)
    assert got == [("alice", 10), ("bob", 5), ("bob", 2)]
    assert budget.free_bytes == 40 - 10 - 10


async def test_more_than_the_whole_budget_takes_all_of_it(autojump_clock: MockClock) -> None:
    budget = Budget(10)
    taken = await budget.take(100, BOB.owner)
    assert (taken, budget.free_bytes) == (10, 0)
    budget.give(taken, BOB.owner)
    assert budget.free_bytes == 10


async def test_body_that_stalls_frees_what_was_reserved_for_it_however_fast_it_came(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script()
    async with links() as (link, other), trio.open_nursery() as nursery:
        alice, bob = Peer(link, ALICE), Peer(other, BOB, script)
        async with trio.open_nursery() as greeting:
            greeting.start_soon(alice.greet)
            greeting.start_soon(bob.greet)
        nursery.start_soon(bob.run)
        length = 7 << 20
        await link.send_all(wire.encode(1, wire.Put(NAME, ROOT, length, 1, 0), length) + bytes(length - 1))
        await trio.sleep(STALL_S - 1)
        assert script.open == 1
        await trio.sleep(2)
        assert script.open == 0
        assert bob.ended is not None
        nursery.cancel_scope.cancel()
