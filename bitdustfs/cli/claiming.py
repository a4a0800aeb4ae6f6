"""Before a mount that writes: suppliers are asked whether another machine does, and that one is asked to let go.

What is waited for is said on stderr, in lines that begin with WAITING: the verb that started a daemon hears them too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import click
import trio

from bitdustfs.cli.assemble_supplier import cancel_on_signal
from bitdustfs.cli.waiting import WAITING
from bitdustfs.core.certificate import Identity
from bitdustfs.core.lease import LEASE_S
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.adoption import find_listed
from bitdustfs.engine.claim import Claimed, Holds, claim, give_up
from bitdustfs.errors import InUse
from bitdustfs.model import Supplier, short
from bitdustfs.ports import Catalog, Dialer

MOST_S: Final = LEASE_S + 60.0  # that is waited for another machine: one that is gone holds the volume no longer
SAY_S: Final = 10.0  # (tune) between two lines that say what is waited for
COPY_WRITES: Final = (
    "A copy of this home, which has the same node key, writes the volume, or did until not long ago: this one is "
    "read-only. To write here, unmount it there, and mount this one again, or mount this one with --take-over."
)
_log = logging.getLogger(__name__)


class Claim:
    """What this machine asks of its suppliers before it serves, and takes back if it never does.

    Attributes:
        is_over: whether the node holds the volume, and lets it go, by itself.
        copy_writes: a copy of this home holds the volume, and was left it.
    """

    def __init__(
        self, identity: Identity, secrets: VolumeSecrets, seat: bytes, *, dialer: Dialer | None = None
    ) -> None:
        self._identity = identity
        self._secrets = secrets
        self._seat = seat
        self._dialer = dialer or TcpDialer(identity.key)
        self._asked: Sequence[Supplier] = ()
        self.is_over: Callable[[], bool] = lambda: False
        self.copy_writes = False

    async def make(self, catalog: Catalog, *, takes_over: bool) -> Sequence[str]:
        """Ask, and wait. Returns and raises what `claim_volume` does."""
        self._asked = await find_listed(self._dialer, self._identity, self._secrets, catalog)
        news = await claim_volume(self._identity, self._asked, self._seat, takes_over=takes_over, dialer=self._dialer)
        self.copy_writes = COPY_WRITES in news
        return news

    async def end(self) -> None:
        """Let go what was got, unless that is over: else everybody else would wait for a lease of nobody."""
        if self._asked and not self.is_over():
            with trio.CancelScope(shield=True):
                await give_up(self._dialer, self._identity, self._asked, self._seat)


async def until_told_to_end(work: Callable[[], Awaitable[None]]) -> None:
    """Do something that may end before it serves. Raises what that does; KeyboardInterrupt: a signal ended it."""
    failed: BaseException | None = KeyboardInterrupt()
    async with trio.open_nursery() as nursery:
        await nursery.start(cancel_on_signal, nursery.cancel_scope)
        try:
            await work()
            failed = None
        except BaseException as error:
            if nursery.cancel_scope.cancel_called:
                raise
            failed = error  # raised outside the nursery, which would wrap it in a group
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def claim_volume(
    identity: Identity,
    suppliers: Sequence[Supplier],
    seat: bytes,
    *,
    takes_over: bool,
    most_s: float = MOST_S,
    dialer: Dialer | None = None,
    say: Callable[[str], None] = lambda line: click.echo(line, err=True),
) -> Sequence[str]:
    """Hold the volume at its suppliers, if they can be reached; wait for who else holds it.

    Args:
        takes_over: without waiting for anybody.
        dialer: that of this machine, if there is none.
        say: is told at once, and every SAY_S, what is waited for.
    Returns:
        what to say to the person.
    Raises:
        InUse: another machine writes the volume, and does not let it go.
        KeyboardInterrupt: a signal ended the waiting; the other machine is not asked any more.
    """
    began_s = said_s = trio.current_time()
    until_s = began_s + most_s
    news: list[str] = []
    last: list[Holds] = []
    is_copy = False  # of this home, who holds it

    def waits(told: Holds) -> bool:
        nonlocal said_s, is_copy
        is_copy = told.node == identity.node
        if is_copy:
            return False  # a copy of this home does not answer to us
        now_s = trio.current_time()
        if told.node is not None and not last:
            _log.warning("node %s writes this volume, and is asked to let it go", short(told.node))
            news.append(f"Another machine of yours (node {short(told.node)}) wrote this volume, and has let it go.")
            say(
                f"{WAITING}another machine of yours (node {short(told.node)}), which writes this volume, to send "
                f"what it has and let go: {most_s:.0f} s at most. Ctrl-C ends it; `bitdustfs mount --take-over` does "
                "not wait."
            )
        elif told.node is not None and now_s - said_s >= SAY_S:
            say(
                f"{WAITING}node {short(told.node)} for {now_s - began_s:.0f} s, {until_s - now_s:.0f} s more at "
                f"most; if it is gone, suppliers keep the volume for it {told.left_s} s more. --take-over "
                "does not wait."
            )
        if not last or now_s - said_s >= SAY_S:
            said_s = now_s
        last[:] = [told]
        return now_s < until_s

    ended: Claimed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        dialer = dialer or TcpDialer(identity.key)
        ended = await claim(dialer, identity, suppliers, seat=seat, takes_over=takes_over, waits=waits)
        nursery.cancel_scope.cancel()
    if ended is None:
        raise KeyboardInterrupt
    if ended is Claimed.OTHERS and is_copy:
        return [COPY_WRITES]
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
