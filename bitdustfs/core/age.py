"""Age: how long something is there by its date, and by a clock that nobody sets. Pure but for what was seen.

Dates are by the wall clock, which jumps when somebody sets it. How far it was ahead of a clock that only goes on is
noted at each look. What is as old as is asked for lies before the date that the wall would show now, had it been as
little ahead as it was at any look since then: a jump forward makes nothing older, and what was dated while the clock
was behind is not old when it is right again.
"""

from __future__ import annotations

from collections import deque
from typing import Final

STEP_S: Final = 60  # differences below are no jumps; and no more is remembered of a clock that runs too fast


class Age:
    """Dates that are at least so old by both clocks.

    Args:
        span_s: how old.
    """

    def __init__(self, span_s: int) -> None:
        self._span_s = span_s
        self._ahead: deque[tuple[float, int]] = deque()  # (steady seconds of the last look, steps ahead), both rising

    def before_s(self, wall_s: int, steady_s: float) -> int:
        """The date before which all is old enough; to be asked also whenever something gets a date.

        Args:
            wall_s: the date of now.
            steady_s: of a clock that nobody sets, since any moment.
        """
        ahead = int(wall_s - steady_s) // STEP_S
        while self._ahead and self._ahead[-1][1] >= ahead:
            self._ahead.pop()
        self._ahead.append((steady_s, ahead))
        while self._ahead[0][0] < steady_s - self._span_s:
            self._ahead.popleft()
        least = self._ahead[0][1]
        return wall_s - (ahead - least) * STEP_S - self._span_s
