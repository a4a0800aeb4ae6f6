"""What snapshots hold: bytes that no file of now has, by which snapshots have them.

A chunk that is not of now is in a run of snapshots, from the oldest that has it to the newest. It is freed when all
of these are deleted, and no sooner. So what any row of neighbours would free is a sum over the runs within it.
What a fork has, a state beside this one, no snapshot frees: it stays until a person has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Run = tuple[int, int]  # the oldest and the newest snapshot that has something, by their generations


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of files, each chunk counted once, that nothing of now has."""

    runs: Mapping[Run, int] = field(default_factory=dict)  # what snapshots have, and no fork
    fork_bytes: int = 0  # what forks have, whether snapshots have it too or not

    @property
    def total(self) -> int:
        """What would be freed if all snapshots were deleted."""
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
    """Choose the fewest neighbouring snapshots that free so much; of several as few the ones that free most.

    Args:
        generations: of all that there are, in order.
    Returns:
        If even all together free less than is wanted, the fewest that free as much as all; None: nothing would be.
    """
    there = set(generations)
    by_oldest: dict[int, list[tuple[int, int]]] = {}
    by_newest: dict[int, list[tuple[int, int]]] = {}
    total = 0
    for (oldest, newest), length in held.runs.items():
        if oldest in there and newest in there and length:
            by_oldest.setdefault(oldest, []).append((newest, length))
            by_newest.setdefault(newest, []).append((oldest, length))
            total += length
    wanted = max(1, min(wanted_bytes, total))
    best: Advice | None = None
    start = freed = with_first = 0  # of the neighbours from `start` to `end`; the start never has to go back
    for end, last in enumerate(generations):
        for oldest, length in by_newest.get(last, ()):
            freed += length if oldest >= generations[start] else 0
            with_first += length if oldest == generations[start] else 0
        while start < end and freed - with_first >= wanted:
            freed -= with_first
            start += 1
            with_first = sum(length for newest, length in by_oldest.get(generations[start], ()) if newest <= last)
        found = Advice(generations[start], last, end - start + 1, freed)
        if freed >= wanted and (best is None or (found.count, -freed) < (best.count, -best.freed_bytes)):
            best = found
    return best
