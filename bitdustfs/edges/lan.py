"""The local network: multicast DNS, service _bitdustfs._tcp, on a socket of our own and over the zeroconf package.

zeroconf reads and writes the messages. Its own responder is not used: it keeps whatever anybody announces, without a
bound, in a thread beside us. Here nothing is kept, and what comes is read so fast and no faster: what is more than
that stays in the socket, and the kernel drops it. A message counts only if it did not come through a router (its TTL
is still 255), and it says of nobody but its sender where he is: the address is that which it came from.

Only IPv4: a host that answers to IPv6 alone is not found this way. Without a network, or without multicast, nothing
is heard, and what is said is lost.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import Collection
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

from bitdustfs.core.addresses import split
from bitdustfs.core.sources import Budget
from bitdustfs.ports import Heard

log = logging.getLogger(__name__)

GROUP: Final = "224.0.0.251"  # Source: RFC 6762, section 3
PORT: Final = 5353
SERVICE: Final = "_bitdustfs._tcp.local."
PER_S: Final = 50  # (tune) messages that are read; each costs up to a millisecond with a thousand partners
BURST: Final = 100
PAUSE_S: Final = 0.2  # when more come
AGAIN_S: Final = 60.0  # when the socket cannot be had
_DATAGRAM_BYTES = 1500  # ours have 200; longer ones are cut off, and so not understood
_TTL = 255  # Source: RFC 6762, section 11
_VALID_S = 120
_PTR, _SRV, _TXT, _A, _IN, _UNIQUE = 12, 33, 16, 1, 1, 0x8000
_QUERY, _RESPONSE = 0x0000, 0x8400
_IP_RECVTTL, _IP_MULTICAST_ALL = 12, 49  # Source: linux/in.h; not in Python's socket module
_CONTROL_BYTES = socket.CMSG_SPACE(struct.calcsize("i"))


class MulticastLan:
    """A ports.Lan. Use it in a `with` block."""

    def __init__(self) -> None:
        self._numbers: tuple[str, ...] = ()
        self._socket: trio.socket.SocketType | None = None
        self._opened = trio.Event()
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
        parts = split(place)
        if parts is not None and parts[0].version == 4:
            await self._send(announcement(name, str(parts[0]), parts[1]), str(parts[0]))

    async def hear(self) -> Heard:
        while True:
            if self._socket is None and not self._open():
                with trio.move_on_after(AGAIN_S):
                    await self._opened.wait()
                continue
            if not self._budget.take(trio.current_time()):
                await trio.sleep(PAUSE_S)
                continue
            assert self._socket is not None
            try:
                datagram, control, _flags, source = await self._socket.recvmsg(_DATAGRAM_BYTES, _CONTROL_BYTES)
            except trio.ClosedResourceError:
                continue  # we are in other networks now
            except OSError as error:
                log.debug("the local network: %s", error.strerror)
                await trio.sleep(PAUSE_S)
                continue
            host, port = cast("tuple[str, int]", source)
            heard = read(datagram, host, port) if _came_straight(control) else None
            if heard is not None:
                return heard

    # -- private ----------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        if not self._numbers:
            return False
        try:
            made = _made_socket(self._numbers)
        except OSError as error:
            log.log(self._level, "partners in this network are not looked for: %s", error.strerror)
            self._level = logging.DEBUG  # it is tried again, and said once
            return False
        self._socket = trio.socket.from_stdlib_socket(made)
        self._opened.set()
        return True

    def _close(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _send(self, message: bytes, number: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(number))
            await self._socket.sendto(message, (GROUP, PORT))
        except (OSError, trio.ClosedResourceError) as error:
            log.debug("nothing can be said in the network of %s: %s", number, error)


def question() -> bytes:
    """A message that asks who is there."""
    asked = DNSOutgoing(_QUERY)
    asked.add_question(DNSQuestion(SERVICE, _PTR, _IN))
    return asked.packets()[0]


def announcement(name: str, number: str, port: int, *, valid_s: int = _VALID_S) -> bytes:
    """A message that says who listens at an IPv4 number and a port."""
    instance, host = f"{name}.{SERVICE}", f"{name}.local."
    said = DNSOutgoing(_RESPONSE)
    for record in (
        DNSPointer(SERVICE, _PTR, _IN, valid_s, instance),
        DNSService(instance, _SRV, _IN | _UNIQUE, valid_s, 0, 0, port, host),
        DNSText(instance, _TXT, _IN | _UNIQUE, valid_s, b"\0"),
        DNSAddress(host, _A, _IN | _UNIQUE, valid_s, ipaddress.IPv4Address(number).packed),
    ):
        said.add_answer_at_time(record, 0)
    return said.packets()[0]


def read(datagram: bytes, host: str, port: int) -> Heard | None:
    """What a message says, if it says something of our service.

    Args:
        host, port: where it came from.
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
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
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


def _came_straight(control: list[tuple[int, int, bytes]]) -> bool:
    """Whether no router has passed it on."""
    ttls = [value for level, kind, value in control if (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL)]
    return bool(ttls) and struct.unpack("i", ttls[0][:4])[0] == _TTL
