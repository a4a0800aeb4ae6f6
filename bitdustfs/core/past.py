"""Inodes of the past: one number for an inode as a snapshot of the volume has it.

The kernel, and everything that reads, knows an inode by one number. What was there in generation g has the number of
the inode with g above it. So whoever takes a number can be asked about the past, and no such number is one of now.
"""

from __future__ import annotations

from typing import Final

from bitdustfs.errors import Unavailable
from bitdustfs.model import Ino

_INO_BITS: Final = 40  # 10^12 inodes: at 10 000 a second they last for three years
_GENERATION_BITS: Final = 22  # 4 million: one an hour for 478 years; both together fit the integers of SQLite
FIRST_PAST: Final = Ino(1 << _INO_BITS)  # numbers below are of now
SNAPSHOTS_INO: Final = FIRST_PAST  # the directory of all snapshots: inode 0 of a generation, which there never is
FORKS_INO: Final = Ino(2 << _INO_BITS)  # that of all forks: inode 0 of another one
TOPS: Final = (SNAPSHOTS_INO, FORKS_INO)
GENERATIONS_MOST: Final = 1 << _GENERATION_BITS


def at(generation: int, ino: Ino) -> Ino:
    """The number of an inode as it was in a generation.

    Raises:
        Unavailable: one of the two is too large to be told apart.
    """
    if ino >= FIRST_PAST or not 0 < generation < GENERATIONS_MOST:
        raise Unavailable(what=f"inode {ino} of generation {generation} has no number of its own")
    return Ino(generation << _INO_BITS | ino)


def split(ino: Ino) -> tuple[int, Ino]:
    """(generation, inode) of a number of the past; of a number of now the generation is 0."""
    return ino >> _INO_BITS, Ino(ino & FIRST_PAST - 1)
