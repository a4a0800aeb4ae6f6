"""Surplus: which fragments of a block are more than it needs.

A supplier that was given up for lost and comes back holds what was made again elsewhere. What a block needs is n
different fragments with n different suppliers who answer: as many as its code wishes. The best suppliers keep theirs
(spread over failure groups, then in the order given), and the rest may go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitdustfs.core.placement import Candidate, crowding
from bitdustfs.model import SupplierNo

Place = tuple[int, SupplierNo]  # index of a fragment, and who holds it


def surplus(n: int, held: Iterable[Place], steady: Sequence[Candidate]) -> list[Place]:
    """Choose the held fragments that may be let go.

    Args:
        n: how many different fragments there are to be.
        held: all held fragments of a block.
        steady: who can be counted on, the best first; with them n different fragments must stay.
    Returns:
        Those without which n different fragments are still with n different steady suppliers; none if there are
        not so many.
    """
    places = sorted(held)
    indexes: dict[SupplierNo, list[int]] = {}
    for index, supplier in places:
        indexes.setdefault(supplier, []).append(index)
    left = [candidate for candidate in steady if candidate.supplier in indexes]
    kept: dict[int, SupplierNo] = {}
    keeping: list[Candidate] = []
    while left and len(kept) < n:
        best = min(left, key=lambda candidate: crowding(candidate, keeping))  # the first of several
        left.remove(best)
        if _keeps_one(best.supplier, indexes, kept, set()):
            keeping.append(best)
    if len(kept) < n:
        return []
    return [(index, supplier) for index, supplier in places if kept.get(index) != supplier]


def spread(held: Iterable[Place]) -> int:
    """How many different fragments are with as many different suppliers."""
    indexes: dict[SupplierNo, list[int]] = {}
    for index, supplier in sorted(held):
        indexes.setdefault(supplier, []).append(index)
    kept: dict[int, SupplierNo] = {}
    return sum(_keeps_one(supplier, indexes, kept, set()) for supplier in indexes)


def _keeps_one(
    supplier: SupplierNo,
    indexes: Mapping[SupplierNo, Sequence[int]],
    kept: dict[int, SupplierNo],
    tried: set[int],
) -> bool:
    """Let a supplier keep one of its fragments, if need be by letting others keep another one than before."""
    for index in indexes[supplier]:
        if index in tried:
            continue
        tried.add(index)
        if index not in kept or _keeps_one(kept[index], indexes, kept, tried):
            kept[index] = supplier
            return True
    return False
