"""Assembly of a supplier: the real thing behind `serve`, and what a mount needs of it too.

A file of its own, so that a supplier loads nothing of a mount: neither its start nor its memory pays for that.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from bitdustfs.cli.limits import follow_limits, pacer_of
from bitdustfs.core.certificate import Identity
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.config import Settings
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.own_address import dialable
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch, allow_open_files, tune_process
from bitdustfs.edges.tcp import join_address, listening, split_address
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.scrubber import Scrubber
from bitdustfs.model import OwnerId
from bitdustfs.ports import Crunch, Shelf

_SHELF_THREADS = 8  # they wait for the disk more than they compute

Ready = Callable[[Sequence[str]], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShelfWish:
    """What the person wants to keep for others."""

    listen: str
    shelf: Path
    donate_bytes: int
    allowed: Mapping[OwnerId, int]
    settings: Settings  # as the file said when we began


async def run_serve(home: Home, wish: ShelfWish, ready: Ready) -> None:
    """Keep fragments until told by a signal.

    Raises:
        InUse: the port is taken. AlreadyThere: the shelf's directory holds something else.
    """
    tune_process()
    allow_open_files()
    identity, _secrets = unlock(home)
    pacer = pacer_of(wish.settings)
    with trio.CancelScope() as scope:
        async with listening(wish.listen, identity.key) as listener, trio.open_nursery() as nursery:
            keeper, shelf, crunch = _keeper(home, wish, identity)  # makes directories: not before the port is ours
            reception = Reception(identity, keeper, knows=keeper.has_contract, entropy=SystemEntropy(), pacer=pacer)
            scrubber = Scrubber(shelf, crunch, SystemEntropy(), keeper.note_lost)
            nursery.start_soon(cancel_on_signal, scope)
            nursery.start_soon(reception.run, listener)
            nursery.start_soon(scrubber.run)
            nursery.start_soon(follow_limits, home, wish.settings, pacer)
            host, port = split_address(listener.address)
            ready([f"{identity.node.hex()}@{join_address(dialable(host), port)}"])
    log.info("stopped")


def _keeper(home: Home, wish: ShelfWish, identity: Identity) -> tuple[Keeper, Shelf, Crunch]:
    shelf = DiskShelf.open_or_create(wish.shelf, home.shelf_id, donated_bytes=wish.donate_bytes)
    crunch, store = ThreadCrunch(_SHELF_THREADS), DiskContracts(home.contracts)
    keeper = Keeper(identity, shelf, store, allowed=wish.allowed, crunch=crunch, wall=SystemWall())
    return keeper, shelf, crunch


def unlock(home: Home) -> tuple[Identity, VolumeSecrets]:
    """Who a home is, and the secrets of its volume."""
    keys = read_keys(home)
    return identity_of(keys), VolumeSecrets(keys.volume.volume)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """Cancel when the process is told to end. Never returns."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("ending: %s", signal.Signals(number).name)
            scope.cancel()
