"""Mounts as the kernel lists them: which of them are ours, which home serves them, and how to detach one.

`/proc/self/mountinfo` is asked before the mountpoint is: a look at a mount whose daemon hangs would hang us too.
A mount of ours is of type `fuse.bitdustfs`, and its source names the home: `bitdustfs:HOME`, or
`bitdustfs-practice:HOME` when all suppliers are on this machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from bitdustfs.errors import BadRequest, InUse, NotFound, SetupMissing, Unavailable

FSTYPE = "fuse.bitdustfs"
SUBTYPE = "bitdustfs"
MOUNTINFO = Path("/proc/self/mountinfo")
DEV_FUSE = Path("/dev/fuse")
_PLAIN = "bitdustfs:"
_PRACTICE = "bitdustfs-practice:"
_OCTAL = re.compile(rb"\\([0-7]{3})")
_DETACH_S = 10  # fusermount3 only tells the kernel; what takes longer hangs


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    mountpoint: str
    fstype: str
    source: str

    @property
    def is_ours(self) -> bool:
        return self.fstype == FSTYPE

    @property
    def home(self) -> str | None:
        """The state directory that its source names."""
        for prefix in (_PLAIN, _PRACTICE):
            if self.source.startswith(prefix):
                return os.fsdecode(unquote_to_bytes(self.source[len(prefix) :]))
        return None


def fsname(home: str, *, practice: bool) -> str:
    """The source of a mount, as `df` shows it. What is unusual in a path is percent-encoded."""
    return (_PRACTICE if practice else _PLAIN) + quote(os.fsencode(home))


def mount_option(text: str) -> str:
    """Escape a value for libfuse's option string, where a comma ends an option and a backslash quotes."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def parse_mountinfo(content: bytes) -> tuple[Mount, ...]:
    """Read mountinfo, in the kernel's order: of two mounts at one place the later is on top.

    Source: proc_pid_mountinfo(5). Lines that do not look like one are left out.
    """
    mounts = []
    for line in content.splitlines():
        fields, separator, tail = line.partition(b" - ")
        words, tails = fields.split(b" "), tail.split(b" ")
        if not separator or len(words) < 6 or len(tails) < 2:
            continue
        mounts.append(Mount(mountpoint=_plain(words[4]), fstype=_plain(tails[0]), source=_plain(tails[1])))
    return tuple(mounts)


def read_mounts(path: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """The mounts that this process sees."""
    return parse_mountinfo(path.read_bytes())


def mounted_at(place: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount on top at exactly this place (absolute, without symlinks)."""
    return next((m for m in reversed(mounts) if m.mountpoint == place), None)


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that an absolute path lies in: the one with the longest mountpoint above it."""
    above = [m for m in mounts if is_inside(path, m.mountpoint)]
    return max(reversed(above), key=lambda m: len(m.mountpoint), default=None)


def is_inside(path: str, directory: str) -> bool:
    """True if an absolute path is `directory` or below it, by name only."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def place_of(path: str | os.PathLike[str]) -> str:
    """The absolute path without symlinks. Does not touch the last part, which may be a dead mount."""
    plain = os.path.abspath(path)
    parent, name = os.path.split(plain)
    place = os.path.join(os.path.realpath(parent), name) if name else os.path.realpath(parent)
    if mounted_at(place, read_mounts()) is not None:
        return place
    return os.path.realpath(plain)


def is_dead(place: str) -> bool:
    """True if a mount's daemon is gone ("Transport endpoint is not connected").

    The kernel keeps attributes for minutes after the daemon died, but asks for the space each time.
    """
    try:
        os.statvfs(place)
    except OSError as bad:
        return bad.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_fuse(dev_fuse: Path = DEV_FUSE) -> None:
    """Refuse a machine without FUSE.

    Raises:
        SetupMissing: says what to install or load.
    """
    if fusermount() is None:
        raise SetupMissing(what="fusermount3 is not installed: install the package fuse3")
    if not dev_fuse.exists():
        raise SetupMissing(what=f"{dev_fuse} does not exist: run `modprobe fuse`, or give this container the device")
    if not os.access(dev_fuse, os.R_OK | os.W_OK):
        raise SetupMissing(what=f"{dev_fuse} cannot be opened by you: it must be readable and writable")


def check_mountpoint(place: str, home: str, mounts: Sequence[Mount]) -> bool:
    """Refuse a place where nothing can be mounted. Changes nothing.

    Returns:
        True if a dead mount of ours lies there, which must be detached first.
    Raises:
        NotFound, BadRequest, InUse
    """
    if is_inside(home, place):
        raise BadRequest(what=f"the state directory {home} lies in {place}: choose another mountpoint or --home")
    if is_inside(place, home):
        raise BadRequest(what=f"{place} lies in the state directory {home}: choose another mountpoint")
    refuse_inside_ours(home, "the state directory", mounts)
    there = mounted_at(place, mounts)
    if there is not None and not (there.is_ours and is_dead(place)):
        by = f" (it serves {there.home})" if there.is_ours else f" ({there.fstype})"
        raise InUse(what=f"something is mounted at {place} already{by}: unmount it, or choose another directory")
    if there is not None:
        return True
    try:
        names = os.listdir(place)
    except FileNotFoundError as bad:
        raise NotFound(what=f"the mountpoint {place} does not exist: make it with `mkdir`") from bad
    except NotADirectoryError as bad:
        raise BadRequest(what=f"the mountpoint {place} is not a directory") from bad
    except OSError as bad:
        raise Unavailable(what=f"the mountpoint {place} cannot be read: {bad.strerror}") from bad
    if names:
        raise BadRequest(what=f"the mountpoint {place} is not empty: choose an empty directory")
    return False


def refuse_inside_ours(path: str, what: str, mounts: Sequence[Mount]) -> None:
    """Refuse to keep our own files in a mount of bitdustfs: it would wait for itself, or send what it is sent.

    Args:
        path: absolute, without symlinks.
    Raises:
        BadRequest
    """
    mount = mount_of(path, mounts)
    if mount is not None and mount.is_ours:
        raise BadRequest(what=f"{what} {path} lies in {mount.mountpoint}, a mount of bitdustfs: choose another place")


def detach(place: str, *, lazy: bool) -> None:
    """Take a mount away. `lazy` lets those who still use it finish.

    Raises:
        InUse: somebody uses it. SetupMissing: there is no program that could do it.
    """
    program = fusermount()
    if program is not None:
        command = [program, "-u", *(["-z"] if lazy else []), "--", place]
    elif os.geteuid() == 0 and shutil.which("umount"):
        command = ["umount", *(["-l"] if lazy else []), "--", place]
    else:
        raise SetupMissing(what="fusermount3 is not installed: install the package fuse3")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DETACH_S, check=False)
    except subprocess.TimeoutExpired as bad:
        raise Unavailable(what=f"{place} could not be unmounted in {_DETACH_S} s") from bad
    if done.returncode != 0 and mounted_at(place, read_mounts()) is not None:
        raise InUse(what=f"{place} could not be unmounted: {done.stderr.strip() or 'somebody uses it'}")


def fusermount() -> str | None:
    """The path of fusermount3, if it is installed."""
    return shutil.which("fusermount3")


def sync_filesystem(place: str, *, wait_s: float) -> None:
    """Make the kernel hand all dirty pages of the file system at `place` to its daemon, as syncfs(2).

    Raises:
        Unavailable: the mount does not take them, or not in time.
    """
    failed: list[OSError] = []

    def work() -> None:
        try:
            _syncfs(place)
        except OSError as bad:
            failed.append(bad)

    # a thread, because a process that waits in syncfs takes no signal
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(wait_s)
    if worker.is_alive():
        raise Unavailable(what=f"{place} did not take what the kernel holds for it within {wait_s:g} s")
    if failed:
        raise Unavailable(what=f"{place} did not take what the kernel holds for it: {failed[0].strerror}")


def _syncfs(place: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), place)
    finally:
        os.close(descriptor)


def _plain(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
