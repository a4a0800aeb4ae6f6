"""Check sums of spool bytes: what tells a local disk that returns other bytes than it was given.

A spool file is cut into units of SUM_UNIT_BYTES. Each unit has a sum of its first bytes, as many as were there when
it was summed; a position is written once, so a sum stays true until the unit is given back. They guard against a
disk, not against a person: somebody who can change the spool can read it. So a sum is XXH3 (64 bits), and not a hash
that nobody can turn round: each byte is summed when it becomes hard and again when it is uploaded, and BLAKE3 took
ten times as long for that as this does.
"""

from __future__ import annotations

from xxhash import xxh3_64_digest

from bitdustfs.model import SUM_UNIT_BYTES

SUM_BYTES = 8  # an error goes unnoticed once in 2^64
ROW_SUMS = 64  # sums stored together
ROW_BYTES = ROW_SUMS * SUM_UNIT_BYTES  # what they speak of: 1 MiB


def sums_of(content: bytes | memoryview) -> bytes:
    """The sums of content that begins at the start of a unit; SUM_BYTES for each unit, the last may be shorter."""
    if 0 < len(content) <= SUM_UNIT_BYTES:
        return xxh3_64_digest(content)
    view = memoryview(content)
    return b"".join([xxh3_64_digest(view[at : at + SUM_UNIT_BYTES]) for at in range(0, len(view), SUM_UNIT_BYTES)])


def unit_floor(position: int) -> int:
    """The start of the unit that a position lies in."""
    return position - position % SUM_UNIT_BYTES


def unit_ceil(position: int) -> int:
    """The start of the first unit that begins at or behind a position."""
    return -(-position // SUM_UNIT_BYTES) * SUM_UNIT_BYTES
