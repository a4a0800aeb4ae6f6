"""One address, ADDR:PORT or [ADDR]:PORT in numbers, as bytes: 4 or 6 for the family, the number, the port (u16)."""

from __future__ import annotations

import ipaddress
from typing import Final

from bitdustfs.errors import BadFormat

MAX_ADDRESSES: Final = 8  # of one node, in its record


def pack_address(address: str) -> bytes:
    """ADDR:PORT or [ADDR]:PORT as 7 or 19 bytes.

    Raises:
        BadFormat: it is none, or one that nobody can dial.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError as bad:
        raise BadFormat(what=f"{address!r} is no numeric address with a port") from bad
    if not (colon and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise BadFormat(what=f"{address!r} is no numeric address with a port")
    if (ip.version == 6) != (bare is not host) or not _can_be_dialled(ip):
        raise BadFormat(what=f"nobody can dial {address!r}")
    return bytes([ip.version]) + ip.packed + int(port).to_bytes(2, "big")


def unpack_address(content: bytes, at: int) -> tuple[str, int]:
    """The address that begins at `at`, and where it ends.

    Raises:
        BadFormat: there is none, or one that nobody can dial.
    """
    length = {4: 4, 6: 16}.get(content[at]) if at < len(content) else None
    end = at + 1 + (length or 0) + 2
    if length is None or end > len(content):
        raise BadFormat(what="there is no address where one should be")
    ip = ipaddress.ip_address(content[at + 1 : end - 2])
    port = int.from_bytes(content[end - 2 : end], "big")
    if not port or not _can_be_dialled(ip):
        raise BadFormat(what=f"nobody can dial {ip} port {port}")
    return (f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"), end


def _can_be_dialled(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Not: everywhere, many, an IPv4 address in disguise, or one that needs the name of an interface."""
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip.scope_id is not None):
        return False
    broadcast = isinstance(ip, ipaddress.IPv4Address) and ip == ipaddress.IPv4Address("255.255.255.255")
    return not (ip.is_unspecified or ip.is_multicast or broadcast)
