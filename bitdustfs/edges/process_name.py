"""How a process is seen from outside: the command line that `ps` shows."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

_SELF = Path("/proc/self")
_ARG_START, _ARG_END = 48 - 3, 49 - 3  # fields of stat, counted from the one after the name


def name_process(words: Sequence[str]) -> None:
    """Let this process be seen under another command line, which must not be longer than the one it was started with.

    Raises:
        OSError: there is no room for it, or the kernel does not allow it.
    Source: proc_pid_stat(5), proc_pid_mem(5).
    """
    line = b"".join(os.fsencode(word) + b"\0" for word in words)
    fields = (_SELF / "stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    if len(line) > end - start:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    with (_SELF / "mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(line.ljust(end - start, b"\0"))
