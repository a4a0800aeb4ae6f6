"""Following: the way from the state of one head to that of a later one, decided.

    deltas that both name at their beginning   stay
    those that only the old one names          are taken back, the last first
    those that only the new one names          are made

A head that names the same manifest begins where ours began, so this leads from one to the other whatever was merged
meanwhile, and also where somebody went on from an older state than ours. A head with a newer manifest begins where
our own deltas have brought us, if it descends from ours and no delta goes across that place. Otherwise only the
whole new catalog tells what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitdustfs.core.replica import DeltaRef, HeadContent


@dataclass(frozen=True, slots=True)
class Way:
    """From one state to the other by deltas: numbers of deltas are their places in the lists of the heads."""

    dropped: int  # so many of the old ones, from the first on, are in the new manifest
    undone: tuple[int, ...]  # of the old ones, oldest first; they are the last
    done: tuple[int, ...]  # of the new ones, oldest first; they are the last


def has_same_base(here: HeadContent, there: HeadContent) -> bool:
    """Say whether two heads name one manifest."""
    return [ref.block_id for ref in here.manifest] == [ref.block_id for ref in there.manifest]


def way(here: HeadContent, there: HeadContent, *, base: int | None = None) -> Way | None:
    """The way by deltas; None: there is none.

    Args:
        base: the last change that the manifest of `there` holds, if that one descends from `here`; not needed
            where both name the same manifest.
    """
    dropped = 0
    if not has_same_base(here, there):
        if base is None or base > here.change:
            return None
        dropped = sum(each.last <= base for each in here.deltas)
        if any(each.first <= base for each in here.deltas[dropped:]):
            return None
    ours = here.deltas[dropped:]
    same = _same(ours, there.deltas)
    undone = tuple(range(dropped + same, len(here.deltas)))
    return Way(dropped, undone, tuple(range(same, len(there.deltas))))


def _same(ours: tuple[DeltaRef, ...], theirs: tuple[DeltaRef, ...]) -> int:
    pairs = zip(ours, theirs, strict=False)
    count = 0
    for mine, other in pairs:
        if mine.object.block_id != other.object.block_id:
            break
        count += 1
    return count
