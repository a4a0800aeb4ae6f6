"""Which address of this machine others could dial, when we listen on all of them."""

from __future__ import annotations

import ipaddress
import socket

_EVERY = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}  # edges/tcp: [::] is both families
# TEST-NET-1 and the documentation prefix: a route to them is the route to everywhere. Nothing is sent.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_LOOPBACK = "127.0.0.1"


def dialable(host: str) -> str:
    """The address itself, or for "all addresses" the one that connections to elsewhere leave from."""
    families = _EVERY.get(host)
    if families is None:
        return host
    return shorter([number for number in map(_leaving, families) if number])


def shorter(numbers: list[str]) -> str:
    """The one of this machine's addresses, IPv4 first, that an invitation has in it.

    An IPv4 address makes a line of 56 characters, and IPv6 one of 76. So it is IPv4, unless only IPv6 is an address
    that means this machine everywhere. Without any it is that of this machine only.
    """
    parsed = [ip for ip in map(ipaddress.ip_address, numbers) if not ip.is_loopback]
    return str(next((ip for ip in parsed if ip.is_global), next(iter(parsed), _LOOPBACK)))


def _leaving(family: socket.AddressFamily) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
