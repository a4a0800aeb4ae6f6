"""Before a mount that writes: suppliers are asked whether another machine does, and that one is asked to let go."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.core.lease import LEASE_S
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.claim import Claimed, Holds, claim
from bitdustfs.errors import InUse
from bitdustfs.model import Supplier, short
from bitdustfs.ports import Catalog

MOST_S = LEASE_S + 60.0  # that is waited for another machine: one that is gone holds the volume no longer
_log = logging.getLogger(__name__)


async def claim_volume(
    identity: Identity, catalog: Catalog, seat: bytes, *, takes_over: bool, most_s: float = MOST_S
) -> Sequence[str]:
    """Hold the volume at its suppliers, if they can be reached; wait for who else holds it.

    Args:
        takes_over: without waiting for anybody.
    Returns:
        what to say to the person.
    Raises:
        InUse: another machine writes the volume, and does not let it go.
    """
    listed: list[Supplier] = [row for row in catalog.suppliers() if row.is_listed]
    until_s = trio.current_time() + most_s
    news: list[str] = []
    last: list[Holds] = []

    def waits(told: Holds) -> bool:
        if told.node == identity.node:
            return False  # a copy of this home does not answer to us
        if not last and told.node is not None:
            _log.warning("node %s writes this volume, and is asked to let it go", short(told.node))
            news.append(f"Another machine of yours (node {short(told.node)}) wrote this volume, and has let it go.")
        last[:] = [told]
        return trio.current_time() < until_s

    ended = await claim(TcpDialer(identity.key), identity, listed, seat=seat, takes_over=takes_over, waits=waits)
    if ended is Claimed.OTHERS and last and last[0].node is not None:
        raise InUse(
            what=f"another machine of yours (node {short(last[0].node)}) writes this volume, and does not let it go: "
            "it may be sending still, so try again; or unmount it there. `bitdustfs mount --take-over` does not wait "
            "for it: what it has not sent is then put into a folder 'Put aside …' when it is mounted again"
        )
    if ended is Claimed.HELD and takes_over:
        return [
            "This machine writes the volume from now on, whoever did before. What that one had not sent is "
            "put into a folder 'Put aside …' when it is mounted again."
        ]
    return news if ended is Claimed.HELD else ()
