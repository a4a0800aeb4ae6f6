"""Courtesy: how work that nobody waits for leaves the network, and the processor, to reads that somebody waits for.

It is measured in time, not in bytes: whoever was busy for a second and may have a fifth of the line pauses for four.
So nobody has to know how fast the line is, and where others slow it down, the pauses grow by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from bitdustfs.core.pace import background_share, pause_s

LOOK_S: Final = 0.05  # until a pause that has no reason any more ends
LONGEST_PAUSE_S: Final = 60.0  # (tune) work goes on, however slow the line is


class Courtesy:
    """Pauses of background work.

    Args:
        is_reading: whether somebody waits for suppliers now, or did a moment ago.
    """

    def __init__(self, is_reading: Callable[[], bool]) -> None:
        self._is_reading = is_reading

    def is_free(self, spare: int) -> bool:
        """Whether work for a block with so many fragments more than it needs may take all that there is."""
        return self._share(spare) >= 1.0

    async def pause(self, busy_s: float, spare: int) -> None:
        """Leave the line to others, after so many seconds of work for such a block."""
        began = trio.current_time()
        while True:
            left_s = began + min(pause_s(busy_s, self._share(spare)), LONGEST_PAUSE_S) - trio.current_time()
            if left_s <= 0:
                return
            await trio.sleep(min(left_s, LOOK_S))

    def _share(self, spare: int) -> float:
        return background_share(spare, is_reading=self._is_reading())
