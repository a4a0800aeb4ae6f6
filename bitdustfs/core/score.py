"""Score: how good a supplier was so far, by what we saw of it ourselves.

Three things count: whether its audits were right, how much of the time it answered, and how fast it was at best. All
are forgotten slowly, so that a supplier that got better is trusted again, and one that got worse does not live on its
past. Time is counted in seconds in which we were there to see it, so a machine that was off forgets nothing.

Nobody is given up for a low score: it decides who gets new fragments where there is a choice, and who is hired next.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from bitdustfs.model import Track

FULL: Final = 100  # the best score
POOR: Final = 30  # below it a supplier gets something only where nobody else would do
MEMORY_S: Final = 30 * 86400.0  # (tune) what was seen so long ago counts for a third
WRONG_WEIGHT: Final = 50.0  # (tune) right answers that make up for a wrong one
_PRIOR_AUDITS: Final = 16.0  # right answers that an unknown supplier starts with: a day's
_PRIOR_S: Final = 86400.0  # and so long a time, for this part of which it answered
_PRIOR_UPTIME: Final = 0.9
_UNKNOWN_SPEED: Final = 0.9  # its part for speed, until something was moved
_SLOW: Final = 0.5  # the least part for speed
_SLOW_BYTES_S: Final = 16 * 1024  # slower connections are given up
_FAST_BYTES_S: Final = 1024 * 1024  # (tune) more is no better: lines at home are not faster


def watched(track: Track, elapsed_s: float, *, answers: bool) -> Track:
    """The track after so many more seconds, in which the supplier answered, or did not."""
    kept = math.exp(-elapsed_s / MEMORY_S)
    return Track(
        track.supplier,
        present_s=track.present_s * kept + (elapsed_s if answers else 0.0),
        absent_s=track.absent_s * kept + (0.0 if answers else elapsed_s),
        proven=track.proven * kept,
        wrong=track.wrong * kept,
        bytes_per_s=track.bytes_per_s * kept,
    )


def audited(track: Track, *, proven: int, wrong: int) -> Track:
    """The track after audits."""
    return replace(track, proven=track.proven + proven, wrong=track.wrong + wrong)


def moved(track: Track, bytes_per_s: float) -> Track:
    """The track after a fragment moved at this speed. The best one counts: else we may have been the slow one."""
    return replace(track, bytes_per_s=max(track.bytes_per_s, bytes_per_s))


def uptime(track: Track) -> float:
    """The part of the time for which it answered, 0 … 1."""
    return (track.present_s + _PRIOR_UPTIME * _PRIOR_S) / (track.present_s + track.absent_s + _PRIOR_S)


def score(track: Track) -> int:
    """How good a supplier is, 0 … FULL. One of which nothing is known is at four fifths."""
    right = track.proven + _PRIOR_AUDITS
    honesty = right / (right + WRONG_WEIGHT * track.wrong)
    return round(FULL * honesty * uptime(track) * _speed(track))


def _speed(track: Track) -> float:
    if not track.bytes_per_s:
        return _UNKNOWN_SPEED
    place = math.log(max(track.bytes_per_s, 1.0) / _SLOW_BYTES_S) / math.log(_FAST_BYTES_S / _SLOW_BYTES_S)
    return _SLOW + (1.0 - _SLOW) * min(1.0, max(0.0, place))
