"""One hired supplier, as long as this process runs: its row, its connection, its room, and when to try it again."""

from __future__ import annotations

from typing import Final

import trio

from bitdustfs.engine.bulk import Carrier
from bitdustfs.engine.peer import Peer
from bitdustfs.model import Supplier, short

BACKOFF_S: Final = 0.2  # after the first failure; doubles


class Relation:
    """What is known of one hired supplier."""

    __slots__ = ("backoff_s", "carrier", "disowns", "free", "patience", "removed", "row", "wake")

    def __init__(self, row: Supplier) -> None:
        self.row = row
        self.carrier: Carrier | None = None  # over a peer that is greeted, and answered STAT
        self.free = (
            max(0, row.capacity_bytes - row.used_bytes),
            max(0, row.capacity_fragments - row.used_fragments),
        )
        self.disowns = False  # it says that our certificate is not valid any more
        self.wake = trio.Event()
        self.removed = trio.Event()
        self.backoff_s = BACKOFF_S
        self.patience = trio.CancelScope()  # until the next ping

    @property
    def peer(self) -> Peer | None:
        """The connection that requests use, if there is one."""
        return self.carrier.peer if self.carrier is not None else None

    def __repr__(self) -> str:
        return f"{self.row.label or short(self.row.node)}"
