"""Presence: what this node says of where it is, and what it does when that changes.

When the machine has other addresses, connections from one that is gone are dead: nobody would tell us for half a
minute. They are ended, partners are dialled at once, and each of them gets the new record on the new connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from bitdustfs.core import addresses
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.whereabouts import Whereabouts
from bitdustfs.errors import PeerGone
from bitdustfs.ports import Interfaces

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.3  # (tune) addresses come and go several at a time
RENEW_S: Final = 3600.0  # how often it is looked whether our record must be signed anew


class Presence:
    """Keeps our own record true.

    Args:
        listening: where we listen; nothing: nobody can dial us.
        configured: further addresses that the person knows of, as they are now.
        on_moved: called when this machine has other addresses than before.
    """

    def __init__(
        self,
        book: AddressBook,
        whereabouts: Whereabouts,
        connections: Connections,
        interfaces: Interfaces,
        *,
        listening: Sequence[str],
        configured: Callable[[], Sequence[str]] = tuple,
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._book = book
        self._whereabouts = whereabouts
        self._connections = connections
        self._interfaces = interfaces
        self._listening = listening
        self._configured = configured
        self._on_moved = on_moved
        self._numbers: Mapping[str, bool] = {}
        self._seen_anew = trio.Event()
        whereabouts.on_seen = lambda: self._seen_anew.set()

    async def run(self) -> None:
        """Look again whenever something may have changed, until cancelled."""
        while True:
            self.look()
            self._seen_anew = trio.Event()
            with trio.move_on_after(RENEW_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._cancel_when_changed, nursery.cancel_scope)
                    await self._seen_anew.wait()
                    nursery.cancel_scope.cancel()
            await trio.sleep(SETTLE_S)

    def look(self) -> None:
        """Take in the addresses of this machine as they are now."""
        numbers, before = self._interfaces.numbers(), self._numbers
        if not numbers and before:
            return  # the kernel did not tell
        self._numbers = numbers
        if before and numbers.keys() != before.keys():
            log.info("this machine has other addresses now")
            self._whereabouts.forget_seen()
            self._book.forget_nearby()
            self._end_stranded()
            self._on_moved()
        told = [number for number, is_lasting in numbers.items() if is_lasting]
        seen = addresses.seen_most(self._whereabouts.seen.values(), self._listening)
        self._book.announce(addresses.announced(self._listening, told, configured=self._configured(), seen=seen))

    def _end_stranded(self) -> None:
        ours = {number.partition("%")[0] for number in self._numbers}
        for peer in self._connections.peers():
            parts = addresses.split(peer.own_address)
            if parts is not None and str(parts[0]) not in ours:
                peer.end(PeerGone(peer=peer.label, what=f"this machine is not at {parts[0]} any more"))

    async def _cancel_when_changed(self, scope: trio.CancelScope) -> None:
        await self._interfaces.wait_for_change()
        scope.cancel()
