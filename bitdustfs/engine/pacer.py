"""The pacer: every byte between this process and other nodes passes it, and it holds `limits.up` and `limits.down`.

One for all connections of a process. Each direction is a gate; connections wait at it in turn, for one piece at a
time (core/pace says how long a piece is), so that each gets its share however much another one has to send. Short
messages (pings, heads, requests) go before pieces of long ones. What comes can only be counted when it is here: who
took in a piece pays for it before he takes in the next, and TCP tells the sender.

Datagrams (the hash table, the local network) are few and short, and worth nothing when they are late: they wait for
nobody, and what waits here waits longer for them. A flood of them takes half of a limit from the rest, and no more.

Where nothing is limited, nobody waits and nothing is counted.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

import trio

from bitdustfs.core.pace import BURST_S, LEAST_LIMIT_BYTES_S, Bucket

SHORT_BYTES: Final = 4 * 1024  # (tune) a message up to this length goes before pieces of long ones
DATAGRAMS_SHARE: Final = 0.5  # (tune) of a limit, which they may take from what waits
SHORT_MOST: Final = 16  # (tune) short ones that go first before a piece of a long one gets its turn


class _Waiting:
    """Somebody at a gate."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken = trio.Event()


class Gate:
    """One direction. See `Pacer`."""

    def __init__(self) -> None:
        self._bucket = Bucket()
        self._datagrams = Bucket()  # of the same bytes, what they may take of them
        self._short: deque[_Waiting] = deque()
        self._long: deque[_Waiting] = deque()
        self._spree = 0  # short ones that went before a long one
        self._bodies = trio.CapacityLimiter(inf)

    @property
    def is_open(self) -> bool:
        """Nothing is limited: `pay` need not be called."""
        return self._bucket.bytes_per_s == inf

    @property
    def is_crowded(self) -> bool:
        """Somebody waits for what is limited here."""
        return bool(self._long or self._short)

    @property
    def bytes_per_s(self) -> float:
        """The limit; inf: there is none."""
        return self._bucket.bytes_per_s

    def limit(self, bytes_per_s: float) -> None:
        """Hold another limit from now on; inf: none."""
        self._bucket.limit(bytes_per_s, trio.current_time())
        self._datagrams.limit(DATAGRAMS_SHARE * bytes_per_s, trio.current_time())
        self._bodies.total_tokens = inf if bytes_per_s == inf else max(1, int(bytes_per_s // LEAST_LIMIT_BYTES_S))
        self._wake()

    def piece(self, most: int) -> int:
        """How many of `most` bytes should move at once."""
        return self._bucket.piece(most)

    async def pay(self, count: int) -> float:
        """Wait until so many bytes may move. Returns how many seconds that took."""
        began = trio.current_time()
        queue = self._short if count <= SHORT_BYTES else self._long
        waiting = _Waiting()
        queue.append(waiting)
        try:
            while (left_s := self._bucket.wait_s(trio.current_time())) > 0 or self._first() is not waiting:
                waiting.woken = trio.Event()
                with trio.move_on_after(left_s if self._first() is waiting else inf):
                    await waiting.woken.wait()
            self._bucket.spend(count, trio.current_time())
            self._spree = self._spree + 1 if queue is self._short and self._long else 0
        finally:
            queue.remove(waiting)
            self._wake()
        return trio.current_time() - began

    def owe(self, count: int) -> None:
        """Count so many bytes of datagrams that have moved already."""
        now = trio.current_time()
        if not self.is_open and self._datagrams.wait_s(now) == 0:
            counted = min(count, int(BURST_S * self.bytes_per_s))
            self._datagrams.spend(counted, now)
            self._bucket.spend(counted, now)

    async def enter(self) -> None:
        """Wait until a long body may be sent; `leave` must follow, from the same task.

        No more are sent at a time than reach those who receive them fast enough not to be given up.
        """
        await self._bodies.acquire()

    def leave(self) -> None:
        """The end of what `enter` began."""
        self._bodies.release()

    def _first(self) -> _Waiting | None:
        if self._long and (not self._short or self._spree >= SHORT_MOST):
            return self._long[0]
        return self._short[0] if self._short else None

    def _wake(self) -> None:
        first = self._first()
        if first is not None:
            first.woken.set()


class Pacer:
    """What all connections of a process may send and receive together. It begins without limits."""

    def __init__(self) -> None:
        self.up = Gate()
        self.down = Gate()

    def limit(self, *, up: float, down: float) -> None:
        """Hold other limits from now on.

        Args:
            up, down: bytes in a second, without TCP's and TLS's own, which are some hundredths; inf: no limit.
        """
        self.up.limit(up)
        self.down.limit(down)

    def owe(self, *, up: int, down: int) -> None:
        """Count bytes of datagrams that were sent, and that came."""
        self.up.owe(up)
        self.down.owe(down)
