"""Assembly of a supplier: the real thing behind `serve`, and what a mount needs of it too.

A file of its own, so that a supplier loads nothing of a mount: neither its start nor its memory pays for that.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence

import trio

from bitdustfs.cli.contracting import contract_verbs
from bitdustfs.cli.giving import GivingWish, giving
from bitdustfs.cli.limits import follow_limits, pacer_of
from bitdustfs.cli.reaching import reach_verbs
from bitdustfs.core.certificate import Identity
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges import control_server
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.system import allow_open_files, tune_process

Ready = Callable[[Sequence[str]], None]
log = logging.getLogger(__name__)


async def run_serve(home: Home, wish: GivingWish, ready: Ready) -> None:
    """Keep fragments until told by a signal.

    Raises:
        InUse: the port is taken. AlreadyThere: the shelf's directory holds something else.
    """
    tune_process()
    allow_open_files()
    identity, _secrets = unlock(home)
    pacer = pacer_of(wish.settings)
    with trio.CancelScope() as scope:
        async with giving(home, wish, identity, pacer) as given, trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, scope)
            nursery.start_soon(follow_limits, home, wish.settings, pacer)
            verbs = {**contract_verbs(given, home.contracts), **reach_verbs(given, home.contracts)}
            await nursery.start(control_server.serve, home.control, verbs)
            ready([given.place])
    log.info("stopped")


def unlock(home: Home) -> tuple[Identity, VolumeSecrets]:
    """Who a home is, and the secrets of its volume."""
    keys = read_keys(home)
    return identity_of(keys), VolumeSecrets(keys.volume.volume)


async def cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel when the process is told to end, from `task_status.started` on. Never returns.

    Of two at a time the one that was started last is told; it has to end first.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            log.info("ending: %s", signal.Signals(number).name)
            scope.cancel()
