"""The bell: one place that tells that something changed, so that nobody looks for work where none can be.

    an operation ended, a commit succeeds again - a supplier came, went or has other room - somebody took a head -
    a block's last fragment was sent or given up                      -> ring -> those who look for work look

A service that looks for work each few seconds finds none for as long as nothing has changed and no time that it waits
for has come. With a bell it looks at the same moments, and leaves out those before which nothing rang: a volume that
nobody uses costs next to nothing. Who also goes by the time says until when a look may be left out. A ring that was
forgotten costs `seldom_s`, and no more.
"""

from __future__ import annotations

from math import inf
from typing import Final

import trio

SELDOM_S: Final = 60.0  # (tune) a look without a ring: if somebody forgot to ring, it is a minute and not for ever


class Bell:
    """Tell that something changed.

    Args:
        seldom_s: how long a look is left out at most; 0, where not everybody rings who should: never.
    """

    def __init__(self, seldom_s: float = 0.0) -> None:
        self.seldom_s = seldom_s
        self.rung = 0
        self.waiting: set[trio.Event] = set()

    def ring(self) -> None:
        """Say that something may have changed that somebody looks at. Cheap: each operation of a volume does it."""
        self.rung += 1
        if self.waiting:
            for each in self.waiting:
                each.set()
            self.waiting = set()


class Looks:
    """When one service looks: each `every_s` seconds, if it rang since the look before began."""

    def __init__(self, bell: Bell, every_s: float) -> None:
        self._bell = bell
        self._every_s = every_s
        self._seen = -1
        self._is_due = False
        self._pause = trio.CancelScope()

    def now(self) -> None:
        """Have it look at once."""
        self._is_due = True
        self._pause.cancel()

    async def next(self, *, within_s: float = inf) -> None:
        """Wait until it is time for another look.

        Args:
            within_s: it looks then although nothing rang, but not before `every_s`.
        """
        began = trio.current_time()
        with trio.CancelScope() as self._pause:
            if self._is_due:
                self._pause.cancel()
            rests_s = max(self._every_s, min(within_s, self._bell.seldom_s)) - self._every_s
            is_rung = await self._rings(rests_s)
            late_s = trio.current_time() - began if is_rung else 0.0
            await trio.sleep(self._every_s - late_s % self._every_s)  # the moments are the same as without a bell
        self._seen, self._is_due = self._bell.rung, False

    async def _rings(self, within_s: float) -> bool:
        """Wait until it rings, or has since the look before began."""
        if self._bell.rung != self._seen:
            return True
        rung = trio.Event()
        self._bell.waiting.add(rung)
        try:
            with trio.move_on_after(within_s):
                await rung.wait()
        finally:
            self._bell.waiting.discard(rung)
        return rung.is_set()
