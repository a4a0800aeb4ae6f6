"""The addresses of this machine, and when they change: the kernel's rtnetlink, asked directly.

Source: rtnetlink(7), linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self

import trio

log = logging.getLogger(__name__)

POLL_S: Final = 15.0  # where the kernel does not tell of changes
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port of a message
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_GROUPS = 0x10 | 0x100  # changes of IPv4 and of IPv6 addresses
_DATAGRAM_BYTES = 256 * 1024
# Bridges to containers: the same numbers on many machines, so a friend who dials them meets a container of his own.
_INNER = ("docker", "podman", "virbr", "lxcbr", "lxdbr", "cni", "veth")


class Interfaces:
    """A ports.Interfaces. Use it in a `with` block."""

    def __init__(self) -> None:
        self._changes: trio.socket.SocketType | None = None

    def __enter__(self) -> Self:
        try:
            self._plain = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._plain.bind((0, _GROUPS))
            self._changes = trio.socket.from_stdlib_socket(self._plain)
        except OSError as error:
            log.info("changes of this machine's addresses are looked for every %g s: %s", POLL_S, error.strerror)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._changes is not None:
            self._changes.close()

    def numbers(self) -> Mapping[str, bool]:
        try:
            return dict(_dump())
        except OSError as error:
            log.warning("the addresses of this machine cannot be asked for: %s", error.strerror)
            return {}

    async def wait_for_change(self) -> None:
        if self._changes is None:
            await trio.sleep(POLL_S)
            return
        try:
            await self._changes.recv(_DATAGRAM_BYTES)
            while True:  # what else is there
                self._plain.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError as error:  # more changed than fits
            log.debug("changes of this machine's addresses were missed: %s", error.strerror)


def _dump() -> Iterator[tuple[str, bool]]:
    """Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(1)  # the kernel answers at once
        asking.sendto(
            _HEADER.pack(_HEADER.size + _ADDRESS.size, _RTM_GETADDR, _REQUEST_DUMP, 1, 0)
            + _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0),
            (0, 0),
        )
        while True:
            datagram = asking.recv(_DATAGRAM_BYTES)
            at = 0
            while at < len(datagram):
                length, kind, *_ = _HEADER.unpack_from(datagram, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", datagram, at + _HEADER.size)[0], "netlink refuses")
                if kind == _RTM_NEWADDR:
                    yield from _address(datagram[at + _HEADER.size : at + length])
                at += _aligned(length)


def _address(message: bytes) -> Iterator[tuple[str, bool]]:
    family, _prefix, flags, _scope, interface = _ADDRESS.unpack_from(message)
    attributes: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        attributes[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))
    number = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)  # LOCAL is ours where the two differ
    if number is None or family not in (socket.AF_INET, socket.AF_INET6):
        return
    if _IFA_FLAGS in attributes:
        flags = int.from_bytes(attributes[_IFA_FLAGS], "little" if struct.pack("=H", 1)[0] else "big")
    if flags & (_TENTATIVE | _DAD_FAILED):
        return  # not ours yet
    is_passing = family == socket.AF_INET6 and bool(flags & (_TEMPORARY | _DEPRECATED))
    ip = ipaddress.ip_address(number)
    zone = f"%{interface}" if ip.version == 6 and ip.is_link_local else ""  # our own number of it
    yield f"{ip}{zone}", not is_passing and not _is_inner(interface)


def _is_inner(interface: int) -> bool:
    try:
        return socket.if_indextoname(interface).startswith(_INNER)
    except OSError:
        return False  # it went meanwhile


def _aligned(length: int) -> int:
    return max(4, (length + 3) & ~3)
