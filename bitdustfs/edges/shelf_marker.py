"""The marker of a shelf: which directory is a shelf, and which one a home made.

A directory without the marker is not a shelf: its disk is unplugged. So that an empty mountpoint never becomes one, a
home makes a shelf once and remembers its id.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from bitdustfs.edges.durable import TEMPORARY, replace_file, sync_directory, translated
from bitdustfs.errors import AlreadyThere, BadFormat

MARKER: Final = "bitdustfs-shelf"
ID_BYTES: Final = 16
_MARKER_TEXT = re.compile(rb"bitdustfs shelf 2\n([0-9a-f]{32})\n")
_REMEMBERED_TEXT = re.compile(rb"bitdustfs shelf id 1\n([0-9a-f]{32})\n")
_HALF_MARKER = re.compile(re.escape(MARKER) + TEMPORARY)


def create_shelf(root: Path) -> bytes:
    """Make a directory a shelf; one that is a shelf already stays as it is.

    Returns:
        The id of the shelf.
    Raises:
        AlreadyThere: something else is in it. BadFormat: a shelf of another version. DiskFull, DiskFault.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (root / MARKER).exists():
            for folder in (root, root.parent):  # whoever made it may not have come so far
                sync_directory(folder)
            return read_marker(root)
        there = list(root.iterdir())
        if not all(_HALF_MARKER.fullmatch(path.name) for path in there):
            raise AlreadyThere(what=f"{root} is not empty and is no shelf: choose another directory")
        for half in there:  # making the shelf was interrupted
            half.unlink()
        shelf_id = os.urandom(ID_BYTES)
        replace_file(root / MARKER, f"bitdustfs shelf 2\n{shelf_id.hex()}\n".encode())
        sync_directory(root.parent)
    except OSError as error:
        raise translated(error, root) from error
    return shelf_id


def read_marker(root: Path) -> bytes:
    """The id of the shelf. Raises OSError, BadFormat."""
    match = _MARKER_TEXT.fullmatch((root / MARKER).read_bytes())
    if match is None:
        raise BadFormat(what=f"{root} is a shelf of another version of bitdustfs, or its marker is damaged")
    return bytes.fromhex(match[1].decode())


def recall(remembered: Path) -> bytes | None:
    """The id of the shelf that a home made, if it made one."""
    try:
        match = _REMEMBERED_TEXT.fullmatch(remembered.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translated(error, remembered) from error
    if match is None:
        raise BadFormat(what=f"{remembered} is damaged, or of another version of bitdustfs: put a copy of it back")
    return bytes.fromhex(match[1].decode())


def remember(remembered: Path, shelf_id: bytes) -> None:
    """Note durably which shelf a home made. Raises DiskFull, DiskFault."""
    try:
        replace_file(remembered, f"bitdustfs shelf id 1\n{shelf_id.hex()}\n".encode())
    except OSError as error:
        raise translated(error, remembered) from error
