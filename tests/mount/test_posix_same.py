"""The mount does what another file system of this machine does: random operations of several users on both.

What must be the same is the answer or the errno of each call, and in the end every name with its kind, owner, mode,
links, size and bytes; and once more after a restart, then with the times. Operations come from a seed, so a case that
was found stays: add its seed. Not compared is what differs by design: sizes of directories, inode numbers.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from tests.mount.support import Mount, as_user, renameat2

NAMES = ("a", "b", "c", "d", "e")
MODES = (0o777, 0o755, 0o700, 0o644, 0o4755, 0o6777, 0o2775, 0o1777, 0o000, 0o070, 0o007)
USERS = (0, 0, 1234, 2345)
GROUPS = (-1, 0, 1234, 2345, 4321)
GROUPS_OF_1234 = (4321,)
FLAGS = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC)
MORE_FLAGS = (0, 0, 0, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY)
SIZES = (0, 1, 5_000, 20_000, 300_000)
NOREPLACE, EXCHANGE = 1, 2
OFTEN = ("open", "open", "open", "mkdir", "mkdir", "rename", "rename", "link", "symlink")

Operation = Callable[[Path], object]


def operations(dice: random.Random) -> Iterator[tuple[int, str, Operation]]:
    """For ever: a user, what it is, and a call to make below any directory."""
    choose = dice.choice
    while True:
        p, q = path(dice), path(dice)
        flags = choose((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)) | choose(FLAGS) | choose(MORE_FLAGS) | os.O_NONBLOCK
        mode, size, owner, group = choose(MODES), choose(SIZES), choose(USERS), choose(GROUPS)
        calls: dict[str, Operation] = {
            "open": partial(use, p, flags, mode, bytes(p, "ascii") * (size // 4)),
            **changes_of_names(p, q, mode),
            **changes_of_attributes(p, mode, size, owner, group),
        }
        name = choose((*calls, *OFTEN))
        yield choose(USERS), f"{name} {p} {q} {mode:o} {flags:o} {owner} {group} {size}", calls[name]


def changes_of_names(p: str, q: str, mode: int) -> dict[str, Operation]:
    return {
        "mkdir": lambda d: os.mkdir(d / p, mode),
        "mkfifo": lambda d: os.mkfifo(d / p, mode),
        "symlink": lambda d: os.symlink(q, d / p),
        "link": lambda d: os.link(d / p, d / q),
        "unlink": lambda d: os.unlink(d / p),
        "rmdir": lambda d: os.rmdir(d / p),
        "rename": lambda d: os.rename(d / p, d / q),
        "rename to no name": lambda d: renameat2(d / p, d / q, NOREPLACE),
        "exchange": lambda d: renameat2(d / p, d / q, EXCHANGE),
        "readlink": lambda d: os.readlink(d / p),
        "listdir": lambda d: sorted(os.listdir(d / p)),
    }


def changes_of_attributes(p: str, mode: int, size: int, owner: int, group: int) -> dict[str, Operation]:
    return {
        "chmod": lambda d: os.chmod(d / p, mode),
        "chown": lambda d: os.lchown(d / p, owner, group),
        "truncate": lambda d: os.truncate(d / p, size),
        "utime": lambda d: os.utime(d / p, ns=(size, -size), follow_symlinks=False),
    }


def path(dice: random.Random) -> str:
    return "/".join(dice.choice(NAMES) for _ in range(dice.choice((1, 1, 1, 2, 2, 3))))


def use(p: str, flags: int, mode: int, content: bytes, directory: Path) -> bytes | None:
    """Open, and write or read."""
    descriptor = os.open(directory / p, flags, mode)
    try:
        if flags & (os.O_WRONLY | os.O_RDWR):
            os.write(descriptor, content)
            return None
        return os.read(descriptor, 1_000_000)
    finally:
        os.close(descriptor)


def outcome(call: Operation, directory: Path, user: int) -> object:
    groups = GROUPS_OF_1234 if user == 1234 else ()
    with as_user(user, user, groups) if user else nullcontext():
        try:
            return call(directory)
        except OSError as error:
            return errno.errorcode[error.errno or 0]


def tree(top: Path, *, times: bool = False) -> dict[str, tuple[object, ...]]:
    """Everything below a directory, as far as it must be the same."""
    found: dict[str, tuple[object, ...]] = {}
    for each in [top, *top.rglob("*")]:
        status = each.lstat()
        is_file, is_directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        found[str(each.relative_to(top))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            None if is_directory else status.st_size,
            each.read_bytes() if is_file else None,
            (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) if times else None,
        )
    return found


def compare(mount: Mount, *, seed: int, steps: int) -> None:
    ours, reference = mount.path / str(seed), mount.path.parent / str(seed)
    for directory in (ours, reference):
        directory.mkdir()
        directory.chmod(0o1777 if seed % 2 else 0o777)
    source = operations(random.Random(seed))
    for step in range(steps):
        user, name, call = next(source)
        got, wanted = outcome(call, ours, user), outcome(call, reference, user)
        assert got == wanted, f"step {step} of seed {seed}, by {user}: {name}"
    assert tree(ours) == tree(reference)
    before = tree(ours, times=True)
    mount.stop()
    mount.start()
    assert tree(ours, times=True) == before


@pytest.mark.slow
def test_mount_does_what_another_file_system_does() -> None:
    with Mount("allow_other") as mount:
        for seed in (1, 2):
            compare(mount, seed=seed, steps=1_000)


@pytest.mark.long
def test_mount_does_what_another_file_system_does_for_long() -> None:
    with Mount("allow_other") as mount:
        for seed in range(100, 110):
            compare(mount, seed=seed, steps=5_000)
