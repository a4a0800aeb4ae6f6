"""Leases: who may write a volume now, as a supplier and as a writer see it.

    the first head of a holder, or its word -> held for `lease_s` -> its word again -> … -> let go, or run out

A holder is a node in one seat. The seat is drawn for the home where a node lives, and anew where that home is found
in another place: so the copy of a home, which has the same node key, is another holder.

Everybody counts from what he himself saw, by CLOCK_BOOTTIME: wall clocks are set, the monotonic clock stops in
suspend. A supplier counts from when the word came, a holder from before he sent it, and he counts fewer seconds. So
he never takes himself for the holder when a supplier that he counts on does not any more. A supplier that was
started again has forgotten when it heard of its holder, and counts from when it is asked. Who that is it keeps on its
disk, and that nobody is: else it would take the signer of its head for it, who may have let go long ago.

**What this is for.** Leases keep two machines of one owner from hurting each other by accident. They are not what
makes two accepted writers impossible: that is the chain of heads and the quorum (engine/heads), and needs no clock.
If a clock lies, a person insists, or a supplier forgets, two writers may both think that they are the one; then the
heads of one of them are refused by a quorum, and he stops.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bitdustfs.core import head as heads
from bitdustfs.core.head import LINK_BYTES, MAX_KEPT_BYTES, MAX_LEASE_S, SEAT_BYTES, Head
from bitdustfs.model import NodeId, short

LEASE_S: Final = 600  # (tune) how long a writer that is not heard of keeps others from writing
RENEW_S: Final = LEASE_S / 4  # (tune) three words in a row may get lost
MARGIN_S: Final = LEASE_S / 10  # by which a holder counts less than suppliers, whose clocks may run faster
WISH_S: Final = 60.0  # (tune) that a wish is told to the holder after it was said last: who wishes it may be gone
_NOTE: Final = struct.Struct(f">32s{SEAT_BYTES}sI")
NOTE_BYTES: Final = _NOTE.size
MAX_STORED_BYTES: Final = MAX_KEPT_BYTES + NOTE_BYTES  # of what a supplier keeps for one owner


@dataclass(frozen=True, slots=True)
class Holder:
    """A node in a seat."""

    node: NodeId
    seat: bytes


def called(other: Holder, us: Holder) -> str:
    """Say for a person who wrote a head that we do not know of: what our own seat wrote, a disk set back forgot."""
    if other.node != us.node:
        return f"another machine of yours (node {short(other.node)})"
    if other.seat != us.seat:
        return "a copy of this home, or this home in another place"
    return "this machine before its disk was set back, or by a copy of all of it"


@dataclass(frozen=True, slots=True)
class Lease:
    """Until when a holder keeps others from writing. Seconds of CLOCK_BOOTTIME of who notes it."""

    holder: Holder
    until_s: float

    def binds(self, other: Holder, *, now_s: float) -> bool:
        """Say whether it keeps another one from writing."""
        return self.holder != other and now_s < self.until_s


def of_head(head: Head, *, now_s: float) -> Lease | None:
    """The lease that a head gives its writer, seen now; None: it lets the volume go."""
    return Lease(Holder(head.signer.node, head.seat), now_s + head.lease_s) if head.lease_s else None


def note(lease: Lease | None, *, now_s: float) -> bytes:
    """What a supplier keeps behind a head and its links, NOTE_BYTES, if somebody else holds the volume, or nobody."""
    if lease is None:
        return bytes(NOTE_BYTES)
    left_s = min(MAX_LEASE_S, max(1, round(lease.until_s - now_s)))
    return _NOTE.pack(lease.holder.node, lease.holder.seat, left_s)


def split_note(behind: bytes) -> tuple[bytes, bytes]:
    """Cut what is kept behind a head into links and the note; b"": there is none. Nothing is verified."""
    end = len(behind) - (NOTE_BYTES if len(behind) % LINK_BYTES == NOTE_BYTES else 0)
    return behind[:end], behind[end:]


def of_note(noted: bytes, *, now_s: float) -> Lease | None:
    """The lease that was noted, counted anew; None: nobody holds the volume, or the note is damaged."""
    node, seat, lease_s = _NOTE.unpack(noted)
    return Lease(Holder(NodeId(node), seat), now_s + lease_s) if 0 < lease_s <= MAX_LEASE_S else None


def may_follow(head: Head, links: bytes | memoryview, held: Head, lease: Lease | None, *, now_s: float) -> bool:
    """Say whether a supplier takes a head that follows the one it holds, for all that its lease says.

    Args:
        links: between the two, as for `heads.descends`.
        lease: who holds the volume at this supplier; None: nobody.

    It does if the lease does not bind the signer; if on the way from the one to the other the volume was let go, or
    taken over, which the signer vouches for; or if he takes it over with this head.
    """
    if lease is None or head.epoch != held.epoch:
        return True
    if not lease.binds(Holder(head.signer.node, head.seat), now_s=now_s):
        return True
    return head.takes_over or held.lease_s == 0 or heads.is_handed_on(links)


class Answer(Enum):
    """What a supplier says to who wants to hold the volume."""

    YOURS = "yours"
    HELD = "held"  # by another one


def ask(
    lease: Lease | None, asker: Holder, *, lease_s: int, takes_over: bool, now_s: float
) -> tuple[Answer, Lease | None]:
    """Decide whether somebody holds the volume from now on, or goes on to.

    Args:
        lease: that is noted now; None: there is none.
        lease_s: that he wants; 0: he lets go.
        takes_over: whoever holds it.
    Returns:
        what to say, and the lease to note.
    """
    if lease is not None and not takes_over and lease.binds(asker, now_s=now_s):
        return Answer.HELD, lease
    if lease_s == 0:
        is_his = lease is None or lease.holder == asker or now_s >= lease.until_s
        return Answer.YOURS, None if is_his else lease
    return Answer.YOURS, Lease(asker, now_s + lease_s)


def counts_until_s(sent_s: float, lease_s: int) -> float:
    """Until when a holder takes himself for one at a supplier, if it said yes to what was sent then.

    Args:
        sent_s: seconds of his CLOCK_BOOTTIME, before it left.
    """
    return sent_s + lease_s - max(0.0, MARGIN_S * lease_s / LEASE_S)


def most_named(nodes: Iterable[NodeId]) -> NodeId:
    """The node that most suppliers name, of at least one; of several the one that was named first."""
    told = list(nodes)
    return max(told, key=told.count)
