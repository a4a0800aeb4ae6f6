"""The seat of a home: 16 random bytes that tell it from its copies, which have the same node key (core/lease).

It is kept in a file of the home together with where it was drawn: on which machine, and at which path. A home that
finds itself somewhere else is a copy, or was moved, and draws another one. A copy of a whole machine, its id and all,
is not found out here, but by the heads that it writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blake3 import blake3

from bitdustfs.core.head import SEAT_BYTES
from bitdustfs.edges.durable import replace_file, translated
from bitdustfs.ports import Entropy

NAME: Final = "seat"  # in the home: the seat, then 32 bytes that stand for the place where it was drawn
_MACHINE_ID: Final = Path("/etc/machine-id")


def seat_of(home: Path, entropy: Entropy, *, machine_id: Path = _MACHINE_ID) -> bytes:
    """The seat of a home, drawn and durable if it has none where it is.

    Raises:
        DiskFull, DiskFault
    """
    path, here = home / NAME, _place(home, machine_id)
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        kept = b""
    except OSError as error:
        raise translated(error, path) from error
    if kept[SEAT_BYTES:] == here:
        return kept[:SEAT_BYTES]
    seat = entropy.bytes(SEAT_BYTES)
    try:
        replace_file(path, seat + here)
    except OSError as error:
        raise translated(error, path) from error
    return seat


def _place(home: Path, machine_id: Path) -> bytes:
    try:
        machine = machine_id.read_bytes().strip()
    except OSError:
        machine = b""  # in a container; its path must do
    return blake3(machine + b"\0" + os.fsencode(os.path.realpath(home))).digest()
