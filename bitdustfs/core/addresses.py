"""Addresses: where a node can be dialled as far as it knows itself, and where to try another one first. Pure choices.

Addresses are ADDR:PORT or [ADDR]:PORT in numbers, as records have them (core/record). What a node tells of itself is
not proof of anything: who answers there is checked by its key.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from bitdustfs.core.address import MAX_ADDRESSES, pack_address
from bitdustfs.errors import BadFormat

MAX_DIALLED: Final = 12  # of one node: those of its record, where it answered last, where it was seen nearby
MAX_SEEN: Final = 2  # of what peers say that is announced: one for each family

_EVERY_6 = ipaddress.IPv6Address("::")

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def split(address: str) -> tuple[Ip, int] | None:
    """The number and the port of an address; None: it has a name or a zone, or is none."""
    host, colon, port = address.rpartition(":")
    if "%" in host or not colon or not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        return None
    try:
        ip = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip, int(port)


def join(ip: Ip, port: int) -> str:
    """The address with this number and port."""
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def has_zone(address: str) -> bool:
    """Say whether an address needs an interface of this machine: to everybody else, and after a restart, it says
    nothing, or something else."""
    return "%" in address


def in_zones(listening: Iterable[str], numbers: Iterable[str]) -> tuple[str, ...]:
    """Where others on the same wire may dial this node though it has no other address there: [NUMBER%ZONE]:PORT.

    Args:
        listening: only what listens on all addresses of IPv6 counts.
        numbers: of this machine; those that are link-local have a zone.
    """
    ports = [parts[1] for parts in map(split, listening) if parts is not None and parts[0] == _EVERY_6]
    return tuple(f"[{number}]:{port}" for port in ports[:1] for number in numbers if has_zone(number))


def is_loopback(address: str) -> bool:
    """Say whether only this machine can dial it."""
    parts = split(address)
    return parts is not None and parts[0].is_loopback


def announced(
    listening: Iterable[str], interfaces: Iterable[str], *, configured: Sequence[str] = (), seen: Sequence[str] = ()
) -> tuple[str, ...]:
    """Where others may dial this node, the best first: what its record says.

    What the person wrote comes first, then public addresses of this machine, then those of its own networks, then
    what peers see. Loopback is told only by who listens there and nowhere else: then everybody is on this machine.

    Args:
        listening: with 0.0.0.0 or [::] for all addresses of the family.
        interfaces: the numbers of this machine, without ports.
        seen: from `seen_most`.
    Returns:
        At most MAX_ADDRESSES. None: nobody can dial this node.
    """
    numbers = [ip for ip in map(ipaddress.ip_address, interfaces) if not (ip.is_loopback or ip.is_link_local)]
    own: list[tuple[Ip, int]] = []
    for address in listening:
        parts = split(address)
        if parts is None:
            continue
        ip, port = parts
        if ip.is_unspecified:
            own += [(number, port) for number in numbers if number.version == ip.version]
        elif not ip.is_link_local:
            own.append((ip, port))
    own.sort(key=lambda place: (not place[0].is_global, place[0].version == 6))  # stable: as the machine tells them
    told = (*configured, *(join(*place) for place in own), *seen)
    return tuple(dict.fromkeys(address for address in told if can_be_announced(address)))[:MAX_ADDRESSES]


def can_be_announced(address: str) -> bool:
    """Say whether a record may have it."""
    try:
        pack_address(address)
    except BadFormat:
        return False
    return True


def seen_most(reports: Iterable[Collection[str]], listening: Sequence[str]) -> tuple[str, ...]:
    """What most of those who see this node say of where it is, one address for each family.

    Args:
        reports: of each one who sees us the places where he does: where he dialled us, or, with the port 0, where a
            connection that we dialled came from. One vote each; the latest place counts most in a draw.
    """
    ports = {ip.version: port for ip, port in filter(None, map(split, listening))}
    votes: Counter[str] = Counter()
    for places in reports:
        for ip, port in {parts for place in places if (parts := split(place)) is not None}:
            port = port or ports.get(ip.version, 0)
            if port and ip.version in ports and not (ip.is_loopback or ip.is_link_local):
                votes[join(ip, port)] += 1
    best: dict[int, str] = {}
    for address in sorted(votes, key=lambda each: votes[each]):
        parts = split(address)
        assert parts is not None
        best[parts[0].version] = address
    return tuple(best.values())


def to_dial(
    last: str, nearby: Iterable[str], recorded: Iterable[str], *, wrong: Collection[str] = ()
) -> tuple[str, ...]:
    """Where to try a node, in order: where it answered last, where it was seen nearby, what its record says.

    Where somebody else answered comes at the end. Loopback counts only if it answered there last: in a record it
    says that the node is on the machine that signed it.

    Returns:
        At most MAX_DIALLED, each once.
    """
    told = [address for address in (*nearby, *recorded) if not is_loopback(address) or is_loopback(last)]
    order = dict.fromkeys(address for address in (last, *told) if address)
    return tuple(sorted(order, key=lambda address: address in wrong))[:MAX_DIALLED]
