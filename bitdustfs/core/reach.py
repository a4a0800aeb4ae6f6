"""Reach: whether an address can be dialled from elsewhere, as far as its digits tell, and where to try it.

A friend who is asked "can I be dialled?" dials the machine that asks, and no other: the host that the connection came
from, with a port that was named. So nobody can make him knock at third parties.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import Enum

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # behind the provider's own translation. Source: RFC 6598


class Scope(Enum):
    """From where an address means this machine."""

    MACHINE = "this machine only"
    HOME = "the same local network only"
    WORLD = "everywhere"
    UNKNOWN = "unknown"  # a name, or no address


def scope_of(address: str) -> Scope:
    """The scope of an ADDR:PORT or an ADDR."""
    host = _host(address) or _parsed(address)
    if host is None:
        return Scope.UNKNOWN
    if host.is_loopback:
        return Scope.MACHINE
    if host.is_unspecified or host.is_multicast:
        return Scope.UNKNOWN
    if host.is_private or host.is_link_local or host in _SHARED:
        return Scope.HOME
    return Scope.WORLD


def place_to_try(came_from: str, announced: Sequence[str]) -> str:
    """Where to dial a node to see whether it can be dialled: where it came from, at a port that it names.

    Args:
        came_from: ADDR:PORT of its connection.
        announced: ADDR:PORT, what it says of itself.
    Returns:
        ADDR:PORT; "": there is nothing to try.
    """
    source = _host(came_from)
    if source is None or (source.version == 6 and source.is_link_local):  # in which of our networks, it does not say
        return ""
    hosts = [(_host(address), _port(address)) for address in announced]
    ports = [port for host, port in hosts if host == source] or [port for _, port in hosts]
    port = next((port for port in ports if port), 0)
    text = f"[{source}]" if source.version == 6 else str(source)
    return f"{text}:{port}" if port else ""


def is_place(address: str) -> bool:
    """Say whether it is an IP address with a port that somebody else could mean by it."""
    host = _host(address) if "%" not in address else None  # behind a % comes a name of that machine, or anything
    return host is not None and bool(_port(address)) and not (host.is_unspecified or host.is_multicast)


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    return _parsed(address.rpartition(":")[0])


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16 else 0
