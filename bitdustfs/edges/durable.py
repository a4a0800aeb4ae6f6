"""Durable small steps on disk: a directory's entries, a whole small file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bitdustfs.errors import BitdustError, DiskFault, DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


def sync_directory(path: Path | str) -> None:
    """Make the names in a directory survive a power loss. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write everything. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: Path, content: bytes) -> None:
    """Put a whole file, mode 0600, in place of another, durably: after a crash the old or the new one is there.

    Raises OSError, and leaves nothing behind.
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync_directory(path.parent)


def translated(error: OSError, path: Path) -> BitdustError:
    """The error of ours for an OSError that a disk gave."""
    if error.errno in _FULL:
        return DiskFull(path=path)
    return DiskFault(path=path, why=error.strerror or str(error))
