"""One hired supplier: its row, connection and room, when to doubt it, and when to try again."""

from __future__ import annotations

from typing import Final

import trio

from bitdustfs.core.patience import SILENT_S
from bitdustfs.engine.bulk import FROM_BYTES, Carrier
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import PeerGone
from bitdustfs.model import Supplier, short
from bitdustfs.ports import Entropy

SILENCE_S: Final = 10  # no byte moved for so long, and nothing is under way, but an answer is due: it is dead
BACKOFF_S: Final = 0.2  # after the first failure; doubles
BACKOFF_CAP_S: Final = 60.0  # a node that comes back is used within about a minute
STEADY_S: Final = 10.0  # a connection that lived so long was a good one: the next failure is a first one


class Relation:
    """What is known of one hired supplier."""

    __slots__ = (
        "backoff_s",
        "bytes_per_s",
        "carrier",
        "dialling",
        "free",
        "looked_for",
        "lost",
        "patience",
        "removed",
        "revoked_in",
        "row",
        "tried",
        "used",
        "wake",
    )

    def __init__(self, row: Supplier) -> None:
        self.row = row
        self.carrier: Carrier | None = None  # over a peer that is greeted, and answered STAT
        self.free = (
            max(0, row.capacity_bytes - row.used_bytes),
            max(0, row.capacity_fragments - row.used_fragments),
        )
        self.looked_for = False  # it has answered since the start, or has not when it was dialled
        self.used = row.used_bytes, row.used_fragments  # as it told last
        self.lost = 0  # fragments of ours that it has told us it found damaged, since it was started
        self.tried: set[Peer] = set()  # connections that are in use, or that we wait on to be
        self.wake = trio.Event()
        self.removed = trio.Event()
        self.backoff_s = BACKOFF_S
        self.bytes_per_s = 0.0  # the fastest that a body moved lately
        self.revoked_in = 0  # the newer epoch that it knows of our owner, if it refuses us for that
        self.patience = trio.CancelScope()  # until the next ping
        self.dialling = trio.CancelScope()  # until it answers at its address

    @property
    def peer(self) -> Peer | None:
        """The connection that requests use, if there is one."""
        return self.carrier.peer if self.carrier is not None else None

    def is_with(self, peer: Peer) -> bool:
        """Say whether a greeted connection is one with this supplier: that node, of that owner."""
        return peer.node == self.row.node and peer.owner == self.row.owner

    def moved(self, count: int, took_s: float) -> None:
        """Note how fast a body went; a short one says more of the way than of the line."""
        if count >= FROM_BYTES:
            self.bytes_per_s = max(self.bytes_per_s, count / max(took_s, 1e-3))

    def __repr__(self) -> str:
        return f"{self.row.label or short(self.row.node)}"


async def until_doubtful(carrier: Carrier) -> None:
    """Return when the connection has ended, or the supplier has owed an answer for long."""
    while True:
        with trio.move_on_after(SILENT_S):
            await carrier.peer.closed.wait()
        if carrier.peer.closed.is_set() or carrier.quiet_s >= SILENT_S:
            return


async def end_when_silent(carrier: Carrier) -> None:
    """Wait until nothing has moved for too long, then end the connection."""
    peer, since = carrier.peer, trio.current_time()
    while trio.current_time() < (deadline := max(since, carrier.last_activity) + SILENCE_S + carrier.backlog_s):
        await trio.sleep_until(deadline)
    peer.end(PeerGone(peer=peer.label, what=f"nothing came for {SILENCE_S} s"))


def jittered_s(pause_s: float, entropy: Entropy) -> float:
    """A half to the whole of a pause: who comes back is not met by everybody at once."""
    return pause_s * (0.5 + int.from_bytes(entropy.bytes(2), "big") / (1 << 17))
