"""Claim: before a machine writes a volume it asks its suppliers to let it hold it, and who holds it to let it go.

    each supplier <- HOLD with a wish, again and again -> a quorum lets us -> go on: adopt what they hold, then write
                                                       -> somebody else holds it -> wait for him, or for his lease
                                                       -> too few answer -> go on here, and see

Who holds it hears of the wish through suppliers that both of us reach, and believes it once two tell of it, or one
without which his heads could not count (engine/holding). Who gave up waiting lets go what he got, and so does
who ends before he serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import trio

from bitdustfs.core import lease as leases
from bitdustfs.core import replica, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.lease import LEASE_S
from bitdustfs.engine.errand import ask_once
from bitdustfs.errors import BitdustError
from bitdustfs.model import NodeId, Supplier, SupplierNo
from bitdustfs.ports import Dialer

ROUND_S: Final = 3.0  # (tune) for suppliers that say nothing
AGAIN_S: Final = 2.0  # (tune) between two rounds
_log = logging.getLogger(__name__)


class Claimed(Enum):
    """How it ended."""

    HELD = "held"  # by us, at a quorum
    OTHERS = "others"  # by somebody else, and it was not waited for
    UNREACHED = "unreached"  # too few suppliers answer to know


@dataclass(frozen=True, slots=True)
class Holds:
    """What suppliers said in one round."""

    ours: int = 0
    others: int = 0
    silent: int = 0  # or failed
    node: NodeId | None = None  # who else holds it
    left_s: int = 0  # of his lease, at most


async def claim(
    dialer: Dialer,
    identity: Identity,
    suppliers: Sequence[Supplier],
    *,
    seat: bytes,
    lease_s: int = LEASE_S,
    takes_over: bool = False,
    waits: Callable[[Holds], bool],
) -> Claimed:
    """Try to hold the volume at a quorum of its suppliers.

    Args:
        suppliers: those that the newest head known here lists.
        takes_over: whoever holds it.
        waits: is told after each round in which somebody else holds it, and says whether to wait for him.

    When it is cancelled, suppliers are told that nobody wishes to write here.
    """
    try:
        return await _claim(
            dialer, identity, suppliers, seat=seat, lease_s=lease_s, takes_over=takes_over, waits=waits
        )
    except BaseException:
        with trio.CancelScope(shield=True):
            await give_up(dialer, identity, suppliers, seat)
        raise


async def _claim(
    dialer: Dialer,
    identity: Identity,
    suppliers: Sequence[Supplier],
    *,
    seat: bytes,
    lease_s: int,
    takes_over: bool,
    waits: Callable[[Holds], bool],
) -> Claimed:
    needed = replica.quorum(len(suppliers))
    while suppliers:
        request = wire.Hold(seat, lease_s, takes_over, wishes=True, waits=False)
        told = await _ask_all(dialer, identity, suppliers, request)
        if told.ours >= needed:
            return Claimed.HELD
        if not told.others or told.silent > len(suppliers) - needed or takes_over:
            return Claimed.UNREACHED  # nobody who is asked to let it be taken over says no, but a liar
        if not waits(told):
            await give_up(dialer, identity, suppliers, seat)
            return Claimed.OTHERS
        if told.ours and told.node is not None and told.node > identity.node:
            # both may be asking, each with some: one of the two lets the other one have them all
            await _ask_all(dialer, identity, suppliers, wire.Hold(seat, 0, False, wishes=True, waits=False))
        await trio.sleep(AGAIN_S)
    return Claimed.UNREACHED


async def give_up(dialer: Dialer, identity: Identity, suppliers: Sequence[Supplier], seat: bytes) -> None:
    """Let go what was got, and take the wish back: else who holds it lets it go for nobody. Takes ROUND_S at most."""
    await _ask_all(dialer, identity, suppliers, wire.Hold(seat, 0, False, wishes=False, waits=False))


async def _ask_all(dialer: Dialer, identity: Identity, suppliers: Sequence[Supplier], request: wire.Hold) -> Holds:
    """Ask all at once, until so many let us or failed that the rest decide nothing, or for ROUND_S.

    While somebody else holds it each is to hear the wish: who holds it does not believe a few of them.
    """
    answers: dict[SupplierNo, wire.Holds | None] = {}
    needed, decided = replica.quorum(len(suppliers)), trio.Event()

    async def ask(row: Supplier) -> None:
        try:
            told, _ = await ask_once(dialer, identity, row.node, row.address, request, wire.Holds)
            answers[row.supplier] = told
        except BitdustError as error:
            _log.debug("%s did not say who holds the volume: %s", row.label, error)
            answers[row.supplier] = None
        yes = sum(told is not None and told.is_yours for told in answers.values())
        failed = sum(told is None for told in answers.values())
        if yes >= needed or failed > len(suppliers) - needed or len(answers) == len(suppliers):
            decided.set()

    with trio.move_on_after(ROUND_S) as scope:
        async with trio.open_nursery() as nursery:
            for row in suppliers:
                nursery.start_soon(ask, row)
            if request.lease_s:  # else each should hear it
                await decided.wait()
                nursery.cancel_scope.cancel()
    given = [told for told in answers.values() if told is not None]
    others = [told for told in given if not told.is_yours]
    return Holds(
        ours=len(given) - len(others),
        others=len(others),
        silent=(len(suppliers) if scope.cancelled_caught else len(answers)) - len(given),
        node=leases.most_named([NodeId(told.node) for told in others]) if others else None,
        left_s=max((told.left_s for told in others), default=0),
    )
