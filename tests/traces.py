"""What tests started is known by a mark in its environment, the directory of the test, and is taken down by it.

So it is found also when the process that started it, or was asked to wait for it, is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARK = "BITDUSTFS_TEST"  # a variable of the environment that says whose a process is; shown in its command line too
_PATIENCE_S = 60.0


def processes(directories: Collection[str | os.PathLike[str]]) -> list[tuple[int, list[str]]]:
    """Processes that were started or forked with one of these in their environment: (pid, command line)."""
    marks = {f"{MARK}={os.fspath(directory)}".encode() for directory in directories}
    found = []
    for entry in Path("/proc").iterdir() if marks else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if not marks.isdisjoint(words) or not marks.isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                found.append((int(entry.name), [os.fsdecode(word) for word in words]))
    return found


def kill(directories: Collection[str | os.PathLike[str]]) -> None:
    """Kill all of these processes that there are now."""
    for pid, _ in processes(directories):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def take_down(directories: Collection[str | os.PathLike[str]]) -> None:
    """Kill all of these processes, and detach what is mounted below the directories, or from a home below them."""
    end = time.monotonic() + _PATIENCE_S
    while processes(directories):
        kill(directories)
        assert time.monotonic() < end, f"processes do not end: {processes(directories)}"
        time.sleep(0.02)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, device = line.partition(" - ")
        place, home = _path(fields.split()[4]), _path(device.split()[1].partition(":")[2])
        if any(path.is_relative_to(directory) for path in (place, home) for directory in directories):
            subprocess.run(["umount", "-l", place], check=False)


def _path(word: str) -> Path:
    return Path(word.encode().decode("unicode_escape"))  # a space is \040
