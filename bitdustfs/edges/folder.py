"""A folder of ours with small files in it, each of which is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from bitdustfs.edges.durable import replace_file, sync_directory, translated


def make_folder(folder: Path) -> None:
    """Make a folder that only we may look into, durably, if it is not there. Raises DiskFull, DiskFault."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(folder.parent)
    except OSError as error:
        raise translated(error, folder) from error


def put_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another, durably. Raises DiskFull, DiskFault."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise translated(error, path.parent) from error


def remove_file(path: Path, *, durably: bool = False) -> None:
    """Take a file away, if it is there; a power loss may bring it back if not `durably`. Raises DiskFault."""
    try:
        path.unlink(missing_ok=True)
        if durably:
            sync_directory(path.parent)
    except OSError as error:
        raise translated(error, path.parent) from error
