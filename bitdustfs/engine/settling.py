"""Settling: for how long nothing is done by a date, because the wall clock jumped and may be wrong for a while.

While we run, a jump is seen against the other clock, which cannot jump. At a start there is only a note of what the
clock showed before: a machine that was off is like one whose clock was set, so whoever comes back after more than
FAR_S waits too. What is left of the wait is noted, or somebody who never stays for all of it would wait for ever.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio

from bitdustfs.core.grace import DAY_S
from bitdustfs.engine.journal import Journal
from bitdustfs.ports import Catalog, Wall

SETTLE_S: Final = 3600.0  # (tune) a clock that was set wrong is mostly right again by then
JUMP_S: Final = 60.0  # (tune) forwards, between two looks: back, no date comes too early
FAR_S: Final = 7 * DAY_S  # (tune) forwards, at a start: well below the month that an end is announced before
NOTE_S: Final = 3600.0  # between two notes of a clock that goes as it should
_CLOCK = "clock"  # in the catalog, local: wall seconds at the last note, and seconds left to settle; 8 bytes each
_log = logging.getLogger(__name__)


class Settling:
    """Says whether dates can be gone by.

    Attributes:
        settle_s: how long they cannot after the clock jumped.
    """

    def __init__(self, catalog: Catalog, journal: Journal, wall: Wall) -> None:
        self._catalog = catalog
        self._journal = journal
        self._wall = wall
        self._seen: tuple[float, float] | None = None  # trio time and wall seconds of the last look
        self._settled_at = 0.0  # trio time
        self.settle_s = SETTLE_S

    @property
    def is_over(self) -> bool:
        """Whether the clock can be believed, as it was at the last look."""
        return trio.current_time() >= self._settled_at

    def look(self) -> None:
        """See whether the clock jumped. Changes nothing in the catalog."""
        now, wall_s = trio.current_time(), self._wall.now_ns() / 1e9
        if self._seen is None:
            before_s, left_s = self._noted() or (wall_s, 0)
            self._settled_at = now + left_s
            has_jumped = wall_s - before_s > FAR_S
        else:
            has_jumped = (wall_s - self._seen[1]) - (now - self._seen[0]) > JUMP_S
        if has_jumped:
            _log.info("the clock was set: nothing is done by a date for %d minutes", self.settle_s // 60)
            self._settled_at = now + self.settle_s
        self._seen = now, wall_s

    def note(self) -> None:
        """Note what the clock shows, now and then. Raises what an operation of the journal does."""
        wall_s = self._wall.now_ns() // 1_000_000_000
        left_s = max(0, math.ceil(self._settled_at - trio.current_time()))
        before = self._noted()
        if before is None or before[1] != left_s or not 0 <= wall_s - before[0] < NOTE_S:
            with self._journal.operation():
                note_clock(self._catalog, wall_s, left_s)

    def _noted(self) -> tuple[int, int] | None:
        raw = self._catalog.local_value(_CLOCK) or b""
        return (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")) if len(raw) == 16 else None


def note_clock(catalog: Catalog, wall_s: int, left_s: int = 0) -> None:
    """Note what the wall clock showed, and for how much longer it is not to be believed. The caller commits."""
    catalog.put_local_value(_CLOCK, max(0, wall_s).to_bytes(8, "big") + left_s.to_bytes(8, "big"))
