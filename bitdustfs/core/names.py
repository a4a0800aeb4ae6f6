"""Rules of names that need no catalog: how they may look, and what may take the place of what."""

from __future__ import annotations

import errno

from bitdustfs.errors import FileError
from bitdustfs.model import Inode

NAME_BYTES = 255  # NAME_MAX of Linux
TARGET_BYTES = 4095  # PATH_MAX of Linux without its NUL


def shown(path: bytes) -> str:
    """Write a path on one line of a text: a line end as `\\n`, what is no UTF-8 as `\\xff`, a backslash as two."""
    return "".join(_shown(character) for character in path.decode("utf-8", "surrogateescape"))


def check_length(name: bytes) -> None:
    """Refuse a name that no directory could have. Raises FileError: ENAMETOOLONG."""
    if len(name) > NAME_BYTES:
        raise FileError(errno=errno.ENAMETOOLONG, what=f"a name has at most {NAME_BYTES} bytes")


def check_name(name: bytes) -> None:
    """Refuse a name that cannot be made. Raises FileError: ENAMETOOLONG, ENOENT, EINVAL."""
    check_length(name)
    if not name:
        raise FileError(errno=errno.ENOENT, what="an empty name")
    if name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise FileError(errno=errno.EINVAL, what="a name that no directory can have")


def check_target(target: bytes) -> None:
    """Refuse a target that no symlink can have. Raises FileError: ENOENT, ENAMETOOLONG."""
    if not target:
        raise FileError(errno=errno.ENOENT, what="a symlink needs a target")
    if len(target) > TARGET_BYTES or b"\0" in target:
        raise FileError(errno=errno.ENAMETOOLONG, what=f"a target has at most {TARGET_BYTES} bytes")


def check_replaceable(replaced: Inode, moved: Inode) -> None:
    """Refuse a rename over what cannot be replaced. Raises FileError: ENOTDIR, EISDIR, ENOTEMPTY."""
    if moved.is_dir and not replaced.is_dir:
        raise FileError(errno=errno.ENOTDIR, what="a directory cannot replace something else")
    if replaced.is_dir and not moved.is_dir:
        raise FileError(errno=errno.EISDIR, what="only a directory can replace a directory")
    if replaced.is_dir and replaced.size:
        raise FileError(errno=errno.ENOTEMPTY, what="the directory to replace has names in it")


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    is_plain = character != "\\" and character.isprintable()
    return character if is_plain else character.encode("unicode_escape").decode()
