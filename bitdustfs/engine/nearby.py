"""Nearby: partners in the same local network find each other without anybody else.

    we come into a network   --> who is there?  I am here, under a name that my partners understand
    a partner hears that     --> notes the address, and dials: the TLS key decides (engine/addresses, suppliers)
    somebody asks            --> I am here; at most once a second

While a partner is not connected we ask again, once a minute. A name is another one in each network and each day
(core/neighbours). Nothing waits for any of this. What is heard costs one hash for each partner, the edge bounds how
much is heard, and of one partner it is believed a few times at once and then every ten seconds: who repeats his name
from elsewhere makes us dial there in vain, so often and no more.

Over IPv6 all of it is link-local: who has no router, and no address but the one that his interface gave itself, is
found too. Such an address is dialled, and it is in no record and in no catalog: it says nothing to others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from bitdustfs.core.addresses import announced, has_zone, in_zones, split
from bitdustfs.core.neighbours import SALT_BYTES, name_of, whose
from bitdustfs.core.sources import SourceBudgets
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.model import NodeId, short
from bitdustfs.ports import Entropy, Interfaces, Lan

log = logging.getLogger(__name__)

REPEATS_S: Final = (1.0, 3.0, 9.0)  # (tune) after these pauses it is said again: a datagram may be lost
LOOK_S: Final = 60.0  # (tune) how often we ask while somebody is missing
ANSWER_S: Final = 1.0  # answers and announcements are so far apart. Source: RFC 6762, section 6
RENAME_S: Final = 86400.0  # a name is not used for longer than that, though we stay
NEWS_BURST: Final = 4  # how often one partner is believed at once
NEWS_PER_S: Final = 0.1  # and later on
MAX_ZONES: Final = 16  # interfaces where we are heard over IPv6; each costs a socket
MAX_SOUGHT: Final = 1024  # partners for whom it is listened


class Nearby:
    """What this node says and hears in its local networks.

    Args:
        listening: where we listen; nothing: nobody is told where we are.
        sought: the nodes that we want to find; those that are missing among them first.
        is_missing: whether one of them is not connected.
        on_here: called after it was noted where one of them is.
    """

    def __init__(
        self,
        lan: Lan,
        book: AddressBook,
        interfaces: Interfaces,
        entropy: Entropy,
        own: NodeId,
        *,
        listening: Sequence[str],
        sought: Callable[[], Collection[NodeId]],
        is_missing: Callable[[], bool],
        on_here: Callable[[], None] = lambda: None,
    ) -> None:
        self._lan = lan
        self._book = book
        self._interfaces = interfaces
        self._entropy = entropy
        self._own = own
        self._listening = listening
        self._sought = sought
        self._is_missing = is_missing
        self._on_here = on_here
        self._news = SourceBudgets(NEWS_PER_S, NEWS_BURST, most=MAX_SOUGHT)
        self._places: Sequence[str] = ()  # where we can be dialled in each network
        self._name = ""
        self._named_at = self._told_at = -RENAME_S
        self._moved = trio.Event()

    def moved(self) -> None:
        """This machine has other addresses than before: it is in other networks."""
        self._moved.set()

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        self._moved.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            pauses_s: list[float] = []
            while True:
                if self._moved.is_set():
                    self._moved = trio.Event()
                    pauses_s = self._appear()
                self._name_anew(RENAME_S)
                if self._is_missing():
                    await self._lan.ask()
                if pauses_s:
                    await self._tell()
                with trio.move_on_after(pauses_s.pop(0) if pauses_s else LOOK_S):
                    await self._moved.wait()

    def _appear(self) -> list[float]:
        """Be in the networks that there are now, under a new name. Returns the pauses between what is said there."""
        numbers = [number for number, is_lasting in self._interfaces.numbers().items() if is_lasting]
        here = [number for number in numbers if _is_for_lan(number)]
        zones = [number for number in numbers if has_zone(number)][:MAX_ZONES]
        self._lan.join([*here, *zones])
        self._places = *announced(self._listening, here), *in_zones(self._listening, zones)
        self._name_anew(0)
        return list(REPEATS_S)

    def _name_anew(self, after_s: float) -> None:
        if trio.current_time() - self._named_at >= after_s:
            self._name = name_of(self._own, self._entropy.bytes(SALT_BYTES))
            self._named_at = trio.current_time()

    async def _tell(self) -> None:
        self._told_at = trio.current_time()
        for place in self._places:
            await self._lan.announce(self._name, place)

    async def _listen(self) -> None:
        while True:
            heard = await self._lan.hear()
            if heard.name:
                self._note(heard.name, heard.address)
            elif trio.current_time() - self._told_at >= ANSWER_S:
                await self._tell()

    def _note(self, name: str, address: str) -> None:
        node = whose(name, list(self._sought())[:MAX_SOUGHT])
        if node is None or not self._news.take(node.hex(), trio.current_time()):
            return
        log.debug("node %s says in this network that it is at %s", short(node), address)
        self._book.note_nearby(node, address)
        self._on_here()


def _is_for_lan(number: str) -> bool:
    parts = split(f"{number}:0") if ":" not in number else None
    return parts is not None and not parts[0].is_loopback


async def look_around(lan: Lan, numbers: Collection[str], wait_s: float, *, most: int) -> Sequence[str]:
    """Where somebody listens in these networks, whoever it is: ADDR:PORT, each once; over IPv6 [ADDR%ZONE]:PORT.

    Args:
        numbers: of this machine.
        wait_s: how long it is listened.
        most: that are returned.
    """
    found: dict[str, None] = {}
    zones = [number for number in numbers if has_zone(number)][:MAX_ZONES]
    lan.join([*(number for number in numbers if _is_for_lan(number)), *zones])
    with trio.move_on_after(wait_s):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                while True:
                    await lan.ask()
                    await trio.sleep(ANSWER_S)

            nursery.start_soon(ask)
            while len(found) < most:
                heard = await lan.hear()
                if heard.name:
                    found[heard.address] = None
            nursery.cancel_scope.cancel()
    return tuple(found)
