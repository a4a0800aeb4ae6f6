"""The local network, behind `serve` and beside a mount, and for `recover`.

As long as neither this machine nor a friend is anywhere but on this very machine, nothing of it is even loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from bitdustfs.engine.nearby import Nearby, look_around
from bitdustfs.engine.pacer import Pacer
from bitdustfs.ports import Lan

if TYPE_CHECKING:
    from bitdustfs.edges.lan import MulticastLan

LOOK_S: Final = 10.0  # how soon it is noticed that there is somebody elsewhere
AROUND_S: Final = 3.0  # (tune) for all who are here to answer
MOST: Final = 16  # who are asked, of all who are here


async def run_nearby(make: Callable[[Lan], Nearby], *, is_of_use: Callable[[], bool], pacer: Pacer) -> None:
    """Tell and listen until cancelled.

    Args:
        make: called once, when it is of use.
        pacer: holds the limits.
    """
    while not is_of_use():
        await trio.sleep(LOOK_S)
    with await _loaded(pacer) as lan:
        await make(lan).run()


async def somebody_nearby() -> Sequence[str]:
    """Where anybody in this network listens who runs bitdustfs, over IPv4 and IPv6."""
    from bitdustfs.edges.interfaces import Interfaces

    with await _loaded() as lan, Interfaces() as interfaces:
        return await look_around(lan, interfaces.numbers(), AROUND_S, most=MOST)


async def _loaded(pacer: Pacer | None = None) -> MulticastLan:
    """Loading takes 0.1 s, and the loop has other work."""
    module = await trio.to_thread.run_sync(importlib.import_module, "bitdustfs.edges.lan")
    made: MulticastLan = module.MulticastLan(pacer)
    return made
