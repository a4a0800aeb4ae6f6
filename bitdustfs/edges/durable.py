"""Durable small steps on disk: a directory's entries, a whole small file."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from bitdustfs.errors import BitdustError, DiskFault, DiskFull, Unavailable

TEMPORARY = r"\.[0-9a-f]{16}\.new"  # how the name of a file goes on while `replace_file` writes it
_FULL = {errno.ENOSPC, errno.EDQUOT}
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})  # this process, or this machine, has too many open files


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


def write_all_at(descriptor: int, content: bytes | memoryview, at: int) -> None:
    """Write everything from position `at` on; several threads may, each its own range. Raises OSError."""
    view = memoryview(content)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done


def replace_file(path: Path, content: bytes) -> None:
    """Put a whole file, mode 0600, in place of another, durably: after a crash the old or the new one is there.

    Raises OSError, and leaves nothing behind.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")  # of its own: two may replace it at once
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(path.parent)


def move_durably(whole: Path, path: Path) -> None:
    """Give a file that nobody has open its name, durably. Raises OSError."""
    descriptor = os.open(whole, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(whole, path)
    sync_directory(path.parent)


def translated(error: OSError, path: Path) -> BitdustError:
    """The error of ours for an OSError that a disk gave."""
    if error.errno in _FULL:
        return DiskFull(path=path)
    if error.errno in NO_DESCRIPTORS:
        return Unavailable(what=f"{path} cannot be opened now: {error.strerror}")
    return DiskFault(path=path, why=error.strerror or str(error))
