"""Heads of writers that hold a volume, or let it go."""

from __future__ import annotations

from bitdustfs.core import head as heads
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import NO_HEAD, Head
from bitdustfs.core.lease import LEASE_S

HANDLE = b"h" * 16
SEAT, COPY = b"the first seat..", b"of a copied home"


def head_of(
    by: Identity,
    version: int,
    after: Head | None = None,
    *,
    handle: bytes = HANDLE,
    seat: bytes = SEAT,
    lease_s: int = LEASE_S,
    takes_over: bool = False,
) -> Head:
    """The head that a writer makes after another one; None: the first one."""
    return heads.sign(
        by,
        handle=handle,
        version=version,
        previous=after.digest if after else NO_HEAD,
        sealed=by.node,
        seat=seat,
        lease_s=lease_s,
        takes_over=takes_over,
    )
