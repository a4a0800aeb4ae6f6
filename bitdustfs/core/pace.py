"""Pace: how many bytes may move when, so that a limit holds on the average.

A token bucket that may go into debt: whoever finds it out of debt moves a whole piece, and the next one waits until
that is paid off. So a piece may be longer than what has been saved up, and none is ever cut because of the clock.
"""

from __future__ import annotations

from math import inf
from typing import Final

BURST_S: Final = 0.25  # (tune) of the limit may be saved up while nothing moves
PIECE_S: Final = 1 / 16  # (tune) how long one piece may keep all others waiting
LEAST_PIECE_BYTES: Final = 4 * 1024  # shorter ones cost more than they are worth
SHARE: Final = 0.5  # (tune) of the time that repair and scans take, while a block can lose two fragments and be read
READERS_SHARE: Final = 0.2  # (tune) while somebody reads, who is to keep seven tenths of the speed
URGENT_SHARE: Final = 0.5  # (tune) while somebody reads, for blocks that cannot lose one fragment more
_TICK_S: Final = 1e-6  # less is not worth waking up for, and may be too little to move a clock
LEAST_LIMIT_BYTES_S: Final = 64 * 1024  # no slower limit: peers give a line up that is slower than a quarter of this


class Bucket:
    """The tokens of one limit. The clock is any that does not go backwards, in seconds.

    Args:
        bytes_per_s: inf: no limit.
    """

    __slots__ = ("_at", "_bytes_per_s", "_tokens")

    def __init__(self, bytes_per_s: float = inf, *, now: float = 0.0) -> None:
        self._bytes_per_s = bytes_per_s
        self._tokens = 0.0  # bytes; negative: debt
        self._at = now

    @property
    def bytes_per_s(self) -> float:
        """The limit; inf: there is none."""
        return self._bytes_per_s

    def limit(self, bytes_per_s: float, now: float) -> None:
        """Hold another limit from now on. What was moved under the old one stays owed, but a quarter second of the
        new one at most."""
        self._settle(now)
        self._bytes_per_s = bytes_per_s
        self._tokens = 0.0 if bytes_per_s == inf else max(self._tokens, -BURST_S * bytes_per_s)

    def wait_s(self, now: float) -> float:
        """How long until the next piece may move; 0: now."""
        if self._bytes_per_s == inf:
            return 0.0
        self._settle(now)
        left_s = -self._tokens / self._bytes_per_s
        return left_s if left_s > _TICK_S else 0.0

    def spend(self, count: int, now: float) -> None:
        """Note that a piece of so many bytes moves."""
        if self._bytes_per_s != inf:
            self._settle(now)
            self._tokens -= count

    def piece(self, most: int) -> int:
        """How long a piece should be, of `most` bytes at most."""
        if self._bytes_per_s == inf:
            return most
        return min(most, max(LEAST_PIECE_BYTES, int(self._bytes_per_s * PIECE_S)))

    def _settle(self, now: float) -> None:
        if self._bytes_per_s != inf:
            earned = max(0.0, now - self._at) * self._bytes_per_s
            self._tokens = min(self._tokens + earned, BURST_S * self._bytes_per_s)
        self._at = now


def background_share(spare: int, *, is_reading: bool) -> float:
    """The part of the line, or of the time, that repair and audits may take.

    Args:
        spare: held fragments of the block that it is for, minus k.
        is_reading: somebody waits for bytes from suppliers.
    """
    if is_reading:
        return URGENT_SHARE if spare < 1 else READERS_SHARE
    return SHARE if spare > 1 else 1.0


def pause_s(busy_s: float, share: float) -> float:
    """How long to pause after so many seconds of work, to be busy for a share of the time."""
    return busy_s * (1.0 / share - 1.0)
