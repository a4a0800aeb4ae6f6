"""The local network: multicast DNS, service _bitdustfs._tcp, on sockets of our own and over the zeroconf package.

zeroconf reads and writes the messages. Its own responder is not used: it keeps whatever anybody announces, without a
bound, in a thread beside us. Here nothing is kept, and what comes is read so fast and no faster: what is more than
that stays in the socket, and the kernel drops it. A message counts only if it did not come through a router (its TTL
is still 255), and it says of nobody but its sender where he is: the address is that which it came from.

IPv4 has one socket for all networks, IPv6 one for each interface, and there all addresses are link-local: their zone
is the number that this machine gave the interface, and never anything that was sent. Without a network, or without
multicast, nothing is heard, and what is said is lost.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import Collection, Sequence
from math import inf
from types import TracebackType
from typing import Final, Self, cast

import trio
from zeroconf import (
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSService,
    DNSText,
)

from bitdustfs.core.sources import Budget
from bitdustfs.engine.pacer import Pacer
from bitdustfs.ports import Heard

log = logging.getLogger(__name__)

GROUP: Final = "224.0.0.251"  # Source: RFC 6762, section 3
GROUP_6: Final = "ff02::fb"
PORT: Final = 5353
SERVICE: Final = "_bitdustfs._tcp.local."
PER_S: Final = 50  # (tune) messages that are read; each costs up to a millisecond with a thousand partners
BURST: Final = 100
PAUSE_S: Final = 0.2  # when more come
AGAIN_S: Final = 60.0  # when the socket cannot be had
_DATAGRAM_BYTES = 1500  # ours have 200; longer ones are cut off, and so not understood
_TTL = 255  # Source: RFC 6762, section 11
_VALID_S = 120
_PTR, _SRV, _TXT, _A, _AAAA, _IN, _UNIQUE = 12, 33, 16, 1, 28, 1, 0x8000
_QUERY, _RESPONSE = 0x0000, 0x8400
_IP_RECVTTL, _IP_MULTICAST_ALL = 12, 49  # Source: linux/in.h; not in Python's socket module
_CONTROL_BYTES = socket.CMSG_SPACE(struct.calcsize("i"))


class MulticastLan:
    """A ports.Lan. Use it in a `with` block.

    Args:
        pacer: told of all that moves, where it holds limits.
    """

    def __init__(self, pacer: Pacer | None = None) -> None:
        self._pacer = pacer or Pacer()
        self._numbers: tuple[str, ...] = ()
        self._sockets: dict[str, socket.socket] = {}  # by zone; "" is IPv4
        self._turn = 0  # whose it is to be read first: a flood in one network keeps no other one silent
        self._opened = trio.Event()
        self._lacks = False  # a socket could not be had, and others could
        self._again_at = inf  # then it is tried again
        self._budget = Budget(PER_S, BURST)
        self._level = logging.INFO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def join(self, numbers: Collection[str]) -> None:
        self._close()
        self._numbers = tuple(numbers)
        self._level = logging.INFO
        self._open()

    async def ask(self) -> None:
        for number in self._numbers:
            await self._send(question(), number)

    async def announce(self, name: str, place: str) -> None:
        host, _, port = place.rpartition(":")
        number = host.strip("[]")
        if number in self._numbers:
            await self._send(announcement(name, number.partition("%")[0], int(port)), number)

    async def hear(self) -> Heard:
        while True:
            if not self._sockets and not self._open():
                with trio.move_on_after(AGAIN_S):
                    await self._opened.wait()
                continue
            if not self._lacks or self._again_at == inf:
                self._again_at = trio.current_time() + AGAIN_S if self._lacks else inf
            with trio.move_on_at(self._again_at) as waiting:
                await _until_readable(tuple(self._sockets.values()))
            if waiting.cancelled_caught:
                self._again_at = inf
                self._open()
                continue
            if not self._budget.take(trio.current_time()):
                await trio.sleep(PAUSE_S)
                continue
            try:
                heard = self._take()
            except OSError as error:
                log.debug("the local network: %s", error.strerror)
                await trio.sleep(PAUSE_S)
                continue
            if heard is not None:
                return heard

    # -- private ----------------------------------------------------------------------------------------------

    def _take(self) -> Heard | None:
        """Read one message, and say what it says. Raises OSError."""
        waiting = list(self._sockets.items())
        for at in range(len(waiting)):
            zone, each = waiting[(self._turn + at) % len(waiting)]
            try:
                datagram, control, _flags, source = each.recvmsg(_DATAGRAM_BYTES, _CONTROL_BYTES)
            except BlockingIOError:
                continue
            self._pacer.owe(up=0, down=len(datagram))
            self._turn = (self._turn + at + 1) % len(waiting)
            host, port = cast("tuple[str, int]", source[:2])
            if not _came_straight(control):
                return None
            return read(datagram, _placed(host, zone) if zone else host, port)
        return None

    def _open(self) -> bool:
        made: dict[str, socket.socket] = {}
        failed: OSError | None = None
        of_4 = [number for number in self._numbers if "%" not in number]
        zones = {number.partition("%")[2] for number in self._numbers} - {""}
        wanted = ([""] if of_4 else []) + sorted(zones)
        for zone in [each for each in wanted if each not in self._sockets]:
            try:
                made[zone] = _made_socket_6(int(zone)) if zone else _made_socket(of_4)
            except (OSError, ValueError) as error:  # there is no multicast in this network, or it is gone
                failed = error if isinstance(error, OSError) else failed
        self._sockets |= made
        self._lacks = failed is not None
        if failed is not None and not self._sockets:
            log.log(self._level, "partners in this network are not looked for: %s", failed.strerror)
            self._level = logging.DEBUG  # it is tried again, and said once
        if self._sockets:
            self._opened.set()
        return bool(self._sockets)

    def _close(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()
        for each in self._sockets.values():
            trio.lowlevel.notify_closing(each)
            each.close()
        self._sockets, self._turn, self._lacks = {}, 0, False

    async def _send(self, message: bytes, number: str) -> None:
        await trio.lowlevel.checkpoint()
        zone = number.partition("%")[2]
        each = self._sockets.get(zone)
        if each is None:
            return
        try:
            if zone:
                each.sendto(message, (GROUP_6, PORT, 0, int(zone)))
            else:
                each.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(number))
                each.sendto(message, (GROUP, PORT))
            self._pacer.owe(up=len(message), down=0)
        except OSError as error:  # also: there is no room for it now
            log.debug("nothing can be said in the network of %s: %s", number, error)


def question() -> bytes:
    """A message that asks who is there."""
    asked = DNSOutgoing(_QUERY)
    asked.add_question(DNSQuestion(SERVICE, _PTR, _IN))
    return asked.packets()[0]


def announcement(name: str, number: str, port: int, *, valid_s: int = _VALID_S) -> bytes:
    """A message that says who listens at a number, without a zone, and a port."""
    ip = ipaddress.ip_address(number)
    instance, host = f"{name}.{SERVICE}", f"{name}.local."
    said = DNSOutgoing(_RESPONSE)
    for record in (
        DNSPointer(SERVICE, _PTR, _IN, valid_s, instance),
        DNSService(instance, _SRV, _IN | _UNIQUE, valid_s, 0, 0, port, host),
        DNSText(instance, _TXT, _IN | _UNIQUE, valid_s, b"\0"),
        DNSAddress(host, _A if ip.version == 4 else _AAAA, _IN | _UNIQUE, valid_s, ip.packed),
    ):
        said.add_answer_at_time(record, 0)
    return said.packets()[0]


def read(datagram: bytes, host: str, port: int) -> Heard | None:
    """What a message says, if it says something of our service.

    Args:
        host, port: where it came from; an IPv6 one in brackets.
    """
    if port != PORT or len(datagram) >= _DATAGRAM_BYTES:
        return None
    message = DNSIncoming(datagram)
    if not message.valid:
        return None
    if message.is_query():
        asked = any(each.name.lower() == SERVICE and each.type == _PTR for each in message.questions)
        return Heard() if asked else None
    for record in message.answers():
        if isinstance(record, DNSService) and record.ttl and record.port:
            name, _, service = record.name.partition(".")
            if service.lower() == SERVICE and name:
                return Heard(name, f"{host}:{record.port}")
    return None


def _made_socket(numbers: Collection[str]) -> socket.socket:
    """Raises OSError: in none of the networks anything can be heard."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # others here, like Avahi, listen too
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
        made.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # not what comes for others on this machine
        made.bind((GROUP, PORT))  # not what is sent to this machine alone
        failed: OSError | None = None
        joined = 0
        for number in numbers:
            try:
                membership = socket.inet_aton(GROUP) + socket.inet_aton(number)
                made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                joined += 1
            except OSError as error:  # this network has no multicast
                failed = error
        if failed is not None and not joined:
            raise failed
    except BaseException:
        made.close()
        raise
    return made


def _made_socket_6(interface: int) -> socket.socket:
    """One that hears in one network, and nowhere else. Raises OSError."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        made.bind((GROUP_6, PORT, 0, interface))  # to the group of this interface: no other one's messages come
        membership = socket.inet_pton(socket.AF_INET6, GROUP_6) + struct.pack("@I", interface)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    except BaseException:
        made.close()
        raise
    return made


def _placed(host: str, zone: str) -> str:
    """The host of an address as it is dialled from here."""
    bare = host.partition("%")[0]
    return f"[{bare}%{zone}]" if ipaddress.IPv6Address(bare).is_link_local else f"[{bare}]"


async def _until_readable(sockets: Sequence[socket.socket]) -> None:
    """Wait until one of some sockets has something, or is closed."""
    async with trio.open_nursery() as nursery:

        async def wait(each: socket.socket) -> None:
            try:
                if each.fileno() >= 0:
                    await trio.lowlevel.wait_readable(each)
            except trio.ClosedResourceError:
                pass  # we are in other networks now, as where it was closed before this task had its turn
            nursery.cancel_scope.cancel()

        for each in sockets:
            nursery.start_soon(wait, each)


def _came_straight(control: list[tuple[int, int, bytes]]) -> bool:
    """Whether no router has passed it on."""
    counts = {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}
    ttls = [value for level, kind, value in control if (level, kind) in counts]
    return bool(ttls) and struct.unpack("i", ttls[0][:4])[0] == _TTL
