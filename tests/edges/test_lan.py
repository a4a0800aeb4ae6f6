"""Messages of the local network, whatever comes. What friends make of them in a real one is in tests/net."""

from __future__ import annotations

import random
import socket

import pytest
import trio
import trio.testing
from zeroconf import DNSAddress, DNSIncoming, DNSOutgoing, DNSQuestion

from bitdustfs.core.neighbours import SALT_BYTES, name_of
from bitdustfs.edges import lan as edge
from bitdustfs.edges.lan import (
    BURST,
    GROUP,
    PER_S,
    PORT,
    MulticastLan,
    _until_readable,
    announcement,
    question,
    read,
)
from bitdustfs.ports import Heard
from bitdustfs.testing.swarm import make_identity
from tests.edges.paying import Paying

PATIENCE_S = 60
NAME = name_of(make_identity("anna").node, bytes(SALT_BYTES))


def test_announcement_says_where_the_sender_is_and_not_what_it_claims() -> None:
    said = announcement(NAME, "192.168.7.2", 4878)
    assert len(said) < 512
    assert read(said, "192.168.7.99", PORT) == Heard(NAME, "192.168.7.99:4878")


def test_announcement_over_ipv6_has_an_address_of_that_kind_and_the_zone_of_who_hears_it() -> None:
    said = announcement(NAME, "fe80::1", 4878)
    (address,) = (each for each in DNSIncoming(said).answers() if isinstance(each, DNSAddress))
    assert address.type == 28
    assert read(said, "[fe80::7%3]", PORT) == Heard(NAME, "[fe80::7%3]:4878")


def test_question_is_understood() -> None:
    assert read(question(), "192.168.7.2", PORT) == Heard()


def test_question_for_another_service_is_not_ours() -> None:
    other = DNSOutgoing(0)
    other.add_question(DNSQuestion("_ipp._tcp.local.", 12, 1))
    assert read(other.packets()[0], "192.168.7.2", PORT) is None


def test_message_from_another_port_is_not_heard() -> None:
    assert read(announcement(NAME, "192.168.7.2", 4878), "192.168.7.2", PORT + 1) is None


def test_farewell_and_port_0_say_nothing() -> None:
    assert read(announcement(NAME, "192.168.7.2", 4878, valid_s=0), "192.168.7.2", PORT) is None
    assert read(announcement(NAME, "192.168.7.2", 0), "192.168.7.2", PORT) is None


def test_what_other_programs_read_is_whole() -> None:
    """As Avahi shows it: the service, its host and the address of it."""
    answers = DNSIncoming(announcement(NAME, "192.168.7.2", 4878)).answers()
    assert [type(each).__name__ for each in answers] == ["DNSPointer", "DNSService", "DNSText", "DNSAddress"]


@pytest.mark.slow
def test_any_bytes_are_read_or_dropped() -> None:
    dice = random.Random(6)
    for _number in range(3000):
        content = bytearray(announcement(NAME, "192.168.7.2", 4878) if dice.random() < 0.8 else question())
        for _change in range(dice.randrange(1, 6)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        del content[dice.randrange(1, len(content) + 1) :]
        heard = read(bytes(content), "192.168.7.2", PORT)
        assert heard is None or not heard.name or heard.address.startswith("192.168.7.2:")
    for length in (0, 1, 11, 12, 1499, 1500, 9000):
        assert read(b"\xc0" * length, "192.168.7.2", PORT) is None
        assert read(dice.randbytes(length), "192.168.7.2", PORT) is None


async def test_what_one_says_the_other_hears_on_a_real_socket() -> None:
    with MulticastLan() as one, MulticastLan() as other:
        one.join(["127.0.0.1"])
        other.join(["127.0.0.1"])
        with trio.fail_after(PATIENCE_S):
            await one.announce(NAME, "127.0.0.1:4878")
            while await other.hear() != Heard(NAME, "127.0.0.1:4878"):
                pass  # other tests may say something here
            await one.ask()
            while await other.hear() != Heard():
                pass


async def test_what_is_said_and_heard_takes_from_the_limits() -> None:
    pacer = Paying()
    with MulticastLan(pacer) as one, MulticastLan() as other, trio.fail_after(PATIENCE_S):
        one.join(["127.0.0.1"])
        other.join(["127.0.0.1"])
        await one.ask()
        assert pacer.up_bytes == len(question())
        while await other.hear() != Heard():
            pass
        await other.ask()
        while await one.hear() != Heard():
            pass
        assert pacer.down_bytes >= len(question())
        assert pacer.up_bytes == len(question())


async def test_who_joins_other_networks_hears_there_from_then_on() -> None:
    async with trio.open_nursery() as nursery:
        with MulticastLan() as one, MulticastLan() as other, trio.fail_after(PATIENCE_S):
            heard = trio.Event()

            async def listen() -> None:
                while await one.hear() != Heard(NAME, "127.0.0.1:4879"):
                    pass
                heard.set()

            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            one.join(["127.0.0.2"])
            await trio.testing.wait_all_tasks_blocked()
            one.join([])
            await trio.testing.wait_all_tasks_blocked()
            one.join(["127.0.0.1"])
            other.join(["127.0.0.1"])
            while not heard.is_set():
                await other.announce(NAME, "127.0.0.1:4879")
                await trio.sleep(0.05)


async def test_networks_that_change_just_when_it_begins_to_listen_are_no_fault() -> None:
    """Between looking for sockets and waiting for them another task has its turn: it may close them."""
    with MulticastLan() as lan, trio.fail_after(PATIENCE_S):
        lan.join(["127.0.0.1"])
        old = tuple(lan._sockets.values())
        lan.join([])
        assert old
        await _until_readable(old)


async def test_socket_that_cannot_be_had_at_first_is_tried_again_though_others_could(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = edge._made_socket

    def in_use(_numbers: object) -> socket.socket:
        monkeypatch.setattr(edge, "_made_socket", make)
        raise OSError(98, "another program has it")

    def quiet(_interface: int) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    monkeypatch.setattr(edge, "_made_socket", in_use)
    monkeypatch.setattr(edge, "_made_socket_6", quiet)
    monkeypatch.setattr(edge, "AGAIN_S", 0.01)
    with MulticastLan() as lan, MulticastLan() as other, trio.fail_after(PATIENCE_S):
        lan.join(["127.0.0.1", "fe80::1%1"])
        other.join(["127.0.0.1"])
        assert len(lan._sockets) == 1
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                while True:
                    await other.announce(NAME, "127.0.0.1:4879")
                    await trio.sleep(0.05)

            nursery.start_soon(say)
            while await lan.hear() != Heard(NAME, "127.0.0.1:4879"):
                pass
            nursery.cancel_scope.cancel()


async def test_flood_is_read_so_fast_and_no_faster() -> None:
    said = announcement("0" * 48, "127.0.0.1", 4880)
    with MulticastLan() as lan, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        lan.join(["127.0.0.1"])
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        flood.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        flood.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        flood.bind(("127.0.0.1", PORT))
        since, count = trio.current_time(), 0
        with trio.move_on_after(PATIENCE_S) as waiting:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    while True:
                        for _number in range(20):
                            flood.sendto(said, (GROUP, PORT))
                        await trio.sleep(0.005)

                nursery.start_soon(send)
                while count < BURST + 10:
                    await lan.hear()
                    count += 1
                nursery.cancel_scope.cancel()
        assert not waiting.cancelled_caught
        assert count <= BURST + PER_S * (trio.current_time() - since) + 1


@pytest.mark.parametrize("numbers", [[], ["192.0.2.77"], ["no number"]])
async def test_without_a_network_nothing_is_heard_and_nothing_fails(numbers: list[str]) -> None:
    with MulticastLan() as lan:
        lan.join(numbers)
        await lan.ask()
        await lan.announce(NAME, "192.0.2.77:4878")
        await lan.announce(NAME, "[2001:db8::1]:4878")
        with trio.move_on_after(0.1) as waiting:
            await lan.hear()
        assert waiting.cancelled_caught
    assert GROUP.startswith("224.0.0.")  # which no router passes on
