"""Shares: how many bytes of a volume are how safe, and how much is still to be made again.

    blocks that lack fragments -> what they lack; of those below the quorum: which bytes of files lie in them
    files that were changed since the newest safe head -> not safe yet
    all else -> safe

All of it is counted in steps, and where counting would take too long, or too little is known, bytes count as less
safe than they may be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from bitdustfs.core import erasure, health
from bitdustfs.model import BlockNo, FileState, Wanting
from bitdustfs.ports import Catalog

STEP: Final = 500  # blocks looked at in one go: 2 ms
STEP_BELOW: Final = 32  # blocks whose bytes are summed in one go: some milliseconds, if they hold small files
MOST_BELOW: Final = 20_000  # (tune) blocks below the quorum, or below k: with more all counts as degraded, or lost
MOST_CHANGED: Final = (
    20_000  # (tune) inodes changed since the last safe head: with more of them nothing is called safe
)
_BREATHE: Final = 200  # inodes looked at before others get a turn


class Rebuilding(Protocol):
    """What is needed of the rebuilder."""

    @property
    def bytes_per_s(self) -> float:
        """How fast it went so far; 0: not known."""
        ...

    def is_anybody_there(self) -> bool:
        """Whether some supplier may take something now."""
        ...


@dataclass(slots=True)
class Shares:
    """Bytes of user data, each in one of these."""

    safe: int = 0
    placed: int = 0
    degraded: int = 0
    local: int = 0
    lost: int = 0

    def add(self, state: FileState, count: int) -> None:
        """Count bytes of this state."""
        setattr(self, state.value, getattr(self, state.value) + count)


@dataclass(slots=True)
class Lacks:
    """What blocks lack."""

    missing_bytes: int = 0  # of the fragments that they lack
    degraded_bytes: int = 0  # of files, in blocks with fewer fragments than their quorum
    lost_bytes: int = 0  # the same with fewer than k
    is_too_much: bool = False  # there are more of the degraded ones than were counted
    is_too_much_lost: bool = False  # of the lost ones
    below: list[BlockNo] = field(default_factory=list)
    gone: list[BlockNo] = field(default_factory=list)


async def lacks(catalog: Catalog, *, of_files: bool = False) -> Lacks:
    """Go through all blocks that lack fragments, or those of files only."""
    found = Lacks()
    at: Wanting | None = None
    while page := catalog.wanting_blocks(STEP, at):
        at = page[-1]
        for each in catalog.shortfalls([wanting.block for wanting in page if wanting.block > 0 or not of_files]):
            found.missing_bytes += erasure.fragment_length(each.length, each.code.k) * (each.code.n - each.held)
            state = health.block_state(each.code, each.held, local_copy=False)
            if each.block > 0 and state is not FileState.PLACED:
                (found.gone if state is FileState.LOST else found.below).append(each.block)
        await trio.lowlevel.checkpoint()
        if len(found.below) > MOST_BELOW:
            found.is_too_much = True
            found.below.clear()
        if len(found.gone) > MOST_BELOW:
            found.is_too_much_lost = True
            found.gone.clear()
    found.degraded_bytes = await _file_bytes(catalog, found.below)
    found.lost_bytes = await _file_bytes(catalog, found.gone)
    return found


async def unsafe_bytes(catalog: Catalog, change: int) -> int | None:
    """Bytes of files that were changed after the last change that is safe; None: not known, or many."""
    touched = catalog.changed_since(change, MOST_CHANGED)
    if touched is None:
        return None
    total = 0
    for turn, ino in enumerate(touched, start=1):
        inode = catalog.inode(ino)
        total += inode.size if inode is not None and inode.is_file else 0
        if turn % _BREATHE == 0:
            await trio.lowlevel.checkpoint()
    return total


def shared_out(total: int, local: int, lacking: Lacks, unsafe: int | None, *, is_unsure: bool) -> Shares:
    """Say how safe the bytes of a volume are.

    Args:
        total: all of them.
        local: that exist only here.
        unsafe: that no safe head names, if their blocks are well held; None: it may be all.
        is_unsure: what counts as held may be gone.
    """
    left = total - (local := min(local, total))
    lost = left if lacking.is_too_much_lost else min(lacking.lost_bytes, left)
    left -= lost
    degraded = left if is_unsure or lacking.is_too_much else min(lacking.degraded_bytes, left)
    left -= degraded
    placed = left if unsafe is None else min(unsafe, left)
    return Shares(safe=left - placed, placed=placed, degraded=degraded, local=local, lost=lost)


def eta_s(missing_bytes: int, rebuilding: Rebuilding | None) -> int:
    """Seconds until all is made again, at the speed of so far; -1: that is not known, or nobody takes it."""
    if not missing_bytes:
        return 0
    if rebuilding is None or not rebuilding.bytes_per_s or not rebuilding.is_anybody_there():
        return -1
    return round(missing_bytes / rebuilding.bytes_per_s)


async def _file_bytes(catalog: Catalog, blocks: Iterable[BlockNo]) -> int:
    numbers, total = list(blocks), 0
    for first in range(0, len(numbers), STEP_BELOW):
        total += catalog.file_bytes_in(numbers[first : first + STEP_BELOW])
        await trio.lowlevel.checkpoint()
    return total
