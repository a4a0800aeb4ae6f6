"""Budgets: how much memory all connections of a process may hold together (invariant I13), and each owner of it.

Two of them, so that neither waits for the other. What came in is given back when it is worked off, which needs no
network; what goes out is held until the peer took it, which may take long. So nobody may hold everything: one owner,
with all his connections, gets a quarter at most, and who is slow or mean makes nobody wait but himself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import trio

from bitdustfs.model import OwnerId

INBOUND_BYTES: Final = 48 * 1024 * 1024  # (tune) bodies being received and worked on, all peers together
OUTBOUND_BYTES: Final = 48 * 1024 * 1024  # (tune) bodies of answers being made and sent, all peers together
OWNERS_PART: Final = 4  # an owner holds at most the whole by this: 12 MiB, which is more than the longest body


@dataclass(slots=True, eq=False)
class _Asking:
    owner: OwnerId
    count: int
    granted: trio.Event = field(default_factory=trio.Event)


class Budget:
    """So many bytes of memory, handed out in order of asking; who has had his share does not hold up the others."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._share = total_bytes // OWNERS_PART
        self._free = total_bytes
        self._held: Counter[OwnerId] = Counter()
        self._asking: dict[_Asking, None] = {}  # in order

    @property
    def free_bytes(self) -> int:
        return self._free

    async def take(self, count: int, owner: OwnerId) -> int:
        """Wait for room for `count` bytes.

        One piece that is longer than an owner's share is taken alone; one longer than the whole takes the whole.

        Returns:
            What was taken, and must be given back, at once or in parts.
        """
        if not count:
            return 0  # nothing must not queue up behind those who wait for much
        asking = _Asking(owner, min(count, self._total))
        self._asking[asking] = None
        self._grant()
        if asking.granted.is_set():
            return asking.count  # without a pass of the loop
        try:
            await asking.granted.wait()
        except BaseException:
            if asking.granted.is_set():
                self.give(asking.count, owner)
            else:
                del self._asking[asking]
                self._grant()
            raise
        return asking.count

    def give(self, count: int, owner: OwnerId) -> None:
        """Give back what was taken, or a part of it."""
        if not count:
            return
        self._free += count
        self._held[owner] -= count
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        waiting: set[OwnerId] = set()  # for what they hold themselves; each is served in order, too
        for asking in tuple(self._asking):
            held = self._held[asking.owner]
            if asking.owner in waiting or (held and held + asking.count > self._share):
                waiting.add(asking.owner)
                continue
            if asking.count > self._free:
                return
            del self._asking[asking]
            self._free -= asking.count
            self._held[asking.owner] += asking.count
            asking.granted.set()


class Memory:
    """The budgets that all connections of a process share."""

    def __init__(self, *, inbound_bytes: int = INBOUND_BYTES, outbound_bytes: int = OUTBOUND_BYTES) -> None:
        self.inbound = Budget(inbound_bytes)
        self.outbound = Budget(outbound_bytes)
