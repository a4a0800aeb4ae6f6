"""What a mount is given besides its handlers: options for libfuse, and limits that only sysfs can change.

pyfuse3 hands no limit of the connection through. How many background requests the kernel takes at a time is asked
for in `fuse_greeting`, up to what it grants everybody; that, and how far it reads ahead (128 KiB), root can raise for
a mount that exists. Without the right to do so everything works, with less overlap.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from bitdustfs.core.patience import KERNEL_SLOTS
from bitdustfs.edges.mounts import SUBTYPE, mount_option
from bitdustfs.errors import Unavailable

MAX_BACKGROUND = 200  # (tune) reads ahead and late writes on their way at once
READ_AHEAD_KIB = 512  # (tune) warm reads gain; with 1024, who reads 64 KiB in small steps makes it ask for 400
START_PATIENCE_S = 10.0  # for the first answer
_ALWAYS = ("default_permissions", "nosuid", "nodev", "noatime")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_MOST_FOR_ALL = Path("/sys/module/fuse/parameters/max_user_bgreq")
_DEVICES = Path("/sys/class/bdi")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC, _CREATE = 1, 6
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How the kernel shall mount us.

    Permission bits are always checked by the kernel, set-user-id bits and devices never work: names and modes may
    come from a catalog that somebody else could have written.
    """

    fsname: str = SUBTYPE  # the source that `df` and `mount` show
    allow_other: bool = False
    read_only: bool = False
    max_background: int = MAX_BACKGROUND
    read_ahead_kib: int = READ_AHEAD_KIB

    def words(self) -> frozenset[str]:
        """The options as libfuse takes them."""
        source = mount_option(self.fsname).encode("ascii", "replace").decode()  # pyfuse3 takes ASCII only
        chosen = {"allow_other": self.allow_other, "ro": self.read_only}
        return frozenset(
            (*_ALWAYS, f"fsname={source}", f"subtype={SUBTYPE}", *(word for word, on in chosen.items() if on))
        )


async def prove(mountpoint: str, options: MountOptions) -> int:
    """See a request through the kernel answered; then, and not before, raise the limits of the mount.

    Returns:
        How many background requests, and so reads, the kernel hands over at a time.
    Raises:
        Unavailable: the mount did not answer.
    """
    try:
        with trio.fail_after(START_PATIENCE_S):
            status = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    except (trio.TooSlowError, OSError) as error:
        raise Unavailable(what=f"the mount at {mountpoint} did not answer: {error}") from error
    return await trio.to_thread.run_sync(_tune, status.st_dev, options)


def _tune(device: int, options: MountOptions) -> int:
    """Raise the limits of a mount, as far as we may. Returns the limit of background requests that it has then."""
    backing = f"{os.major(device)}:{os.minor(device)}"
    _set(_DEVICES / backing / "read_ahead_kb", options.read_ahead_kib)
    with connections() as directory:
        connection = directory / str(os.minor(device))
        _set(connection / "max_background", options.max_background)
        _set(connection / "congestion_threshold", options.max_background * 3 // 4)
        try:
            return int((connection / "max_background").read_text())
        except (OSError, ValueError):  # nobody mounted that file system, or we may not look
            return _granted(options.max_background)


def _granted(max_background: int) -> int:
    """What the kernel makes of our greeting: not more than it grants everybody."""
    try:
        return min(max_background, int(_MOST_FOR_ALL.read_text()))
    except (OSError, ValueError):
        return KERNEL_SLOTS


def _set(path: Path, value: int) -> None:
    try:
        path.write_text(str(value))
    except OSError as error:
        _log.debug("%s stays as it is: %s", path, error.strerror)


@contextmanager
def connections() -> Iterator[Path]:
    """The directory with the limits of all FUSE mounts.

    systemd mounts it; where nobody did, root gets a mount of it that has no place and ends with its descriptor.
    Source: fsopen(2), fsmount(2); their numbers are the same on all architectures.
    """
    if os.geteuid() != 0 or not _CONNECTIONS.is_dir() or any(_CONNECTIONS.iterdir()):
        yield _CONNECTIONS
        return
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors = [libc.syscall(_FSOPEN, b"fusectl", _CLOSE_ON_EXEC)]
    libc.syscall(_FSCONFIG, descriptors[0], _CREATE, None, None, 0)
    descriptors.append(libc.syscall(_FSMOUNT, descriptors[0], _CLOSE_ON_EXEC, 0))
    try:
        yield Path(f"/proc/self/fd/{descriptors[1]}")
    finally:
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
