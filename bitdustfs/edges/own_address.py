"""Which address of this machine others could dial, when we listen on all of them."""

from __future__ import annotations

import socket

_EVERY = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}
# TEST-NET-1 and the documentation prefix: a route to them is the route to everywhere. Nothing is sent.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def dialable(host: str) -> str:
    """The address itself, or for "all addresses" the one that connections to elsewhere leave from."""
    family = _EVERY.get(host)
    if family is None:
        return host
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return _LOOPBACK[family]
