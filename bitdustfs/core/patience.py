"""Patience: which reads shall end, and whom to ask, when suppliers stop answering. Pure.

Everything is decided from one number: *quiet*, how long not a byte has come from a supplier that owes us an answer
(beyond the time that its line takes anyway). A supplier that is slow, but sends, is never quiet.

    quiet for ELSEWHERE_S   others are asked instead, if they are enough
              CALM_S        its reads are stalled: at most STALLED_MOST of them may wait
              SILENT_S      it is not reachable: what needs it fails at once, until something comes

The kernel hands us only so many reads at a time (`slots`) and keeps the others back, also those of local files. So
when reads that wait take nearly all of them, they count as stalled after CROWDED_S already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ELSEWHERE_S: Final = 0.25  # (tune) asking others costs a decode, and nothing else
CROWDED_S: Final = 0.4  # (tune) more than a busy computer pauses, and little: local reads may be waiting
CALM_S: Final = 3.0  # (tune) while nobody is kept back
SILENT_S: Final = 5.0  # (tune) a disk that has to start up first gets so long
STALLED_MOST: Final = 6  # half of what the kernel takes where its limit cannot be raised
KERNEL_SLOTS: Final = 12  # max_background of a FUSE mount, unless root raises it


@dataclass(frozen=True, slots=True)
class WaitingRead:
    """A read of the kernel that waits for suppliers."""

    number: int  # in the order in which they began to wait
    quiet_s: float  # how long nothing has come of what it waits for


def reads_to_end(waiting: Sequence[WaitingRead], *, slots: int) -> list[int]:
    """Choose the reads that must end, so that no more than STALLED_MOST are stalled.

    Args:
        waiting: all that wait.
        slots: how many reads the kernel hands over at a time.
    Returns:
        Their numbers, those that wait longest first.
    """
    crowded = 4 * len(waiting) >= 3 * slots
    stalled = sorted(read.number for read in waiting if read.quiet_s >= (CROWDED_S if crowded else CALM_S))
    return stalled[: max(0, len(stalled) - STALLED_MOST)]
