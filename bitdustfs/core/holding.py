"""What snapshots hold: bytes that no file of now has, by which snapshots have them.

A chunk that is not of now is in a run of snapshots, from the oldest that has it to the newest. It is freed when all
of these are deleted, and no sooner. So what any row of neighbours would free is a sum over the runs within it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Run = tuple[int, int]  # the oldest and the newest snapshot that has something, by their generations


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of files, each chunk counted once, that snapshots have and nothing else."""

    runs: Mapping[Run, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """What would be freed if all were deleted."""
        return sum(self.runs.values())

    def freed(self, first: int, last: int) -> int:
        """What would be freed if all snapshots from generation `first` to `last` were deleted."""
        return sum(length for (oldest, newest), length in self.runs.items() if first <= oldest and newest <= last)


@dataclass(frozen=True, slots=True)
class Advice:
    """Neighbouring snapshots that may be deleted to have room."""

    first: int  # generation of the oldest
    last: int
    count: int
    freed_bytes: int


def advise(held: Held, generations: Sequence[int], wanted_bytes: int) -> Advice | None:
    """Choose the fewest neighbouring snapshots that free so much; of several as few the one that frees most.

    Args:
        generations: of all that there are, in order.
    Returns:
        All of them if even that frees less than is wanted; None: nothing would be freed.
    """
    if not held.total:
        return None
    wanted = min(wanted_bytes, held.freed(generations[0], generations[-1])) if generations else 0
    for count in range(1, len(generations) + 1):
        rows = [generations[at : at + count] for at in range(len(generations) - count + 1)]
        freed, first, last = max(((held.freed(row[0], row[-1]), -row[0], row[-1]) for row in rows), default=(0, 0, 0))
        if freed and freed >= wanted:
            return Advice(-first, last, count, freed)
    return None
