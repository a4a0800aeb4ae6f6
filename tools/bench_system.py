"""What a benchmark needs of the system: processes with their cost, mounts, the kernel's caches, commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND_S = 1800  # nothing in a benchmark takes half an hour; what does hangs
CLOSE_S = 60  # a daemon that is asked to stop has this long, then it is killed
PAUSE_S = 0.02
NAMES = 2  # drop_caches: dentries and inodes
EVERYTHING = 3  # drop_caches: and the page cache


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


class WrongBytes(BenchError):
    """Something came back that is not what was written."""


# --- processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Daemons:
    """Process ids by role."""

    mount: tuple[int, ...] = ()
    suppliers: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        return self.mount + self.suppliers


def cpu_seconds(pids: Sequence[int]) -> dict[int, float]:
    """User and system time of each process that lives, all its threads included."""
    tick = os.sysconf("SC_CLK_TCK")
    spent = {}
    for pid in pids:
        try:
            # The name in brackets may hold anything, also brackets; the numbers follow the last one.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        spent[pid] = (int(fields[11]) + int(fields[12])) / tick
    return spent


def peak_bytes(pid: int) -> int:
    """The largest resident size since start, or since `reset_peak`. 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def reset_peak(pid: int) -> None:
    """Start a new high-water mark, so that each run has its own. Source: proc_pid_clear_refs(5), value 5."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        pass  # of another user: the mark since its start will do


def processes_of(home: Path) -> dict[int, list[str]]:
    """The arguments of each bitdustfs process whose home is `home` or below it, as a practice supplier's is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(_is_program(argument) for argument in arguments[:4]):
                continue
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # ended meanwhile, or not ours to look at
        chosen = [word.removeprefix("--home=") for word in arguments]
        chosen += [word.partition("=")[2] for word in environment if word.startswith("BITDUSTFS_HOME=")]
        if any(is_inside(path, home) for path in chosen):
            found[int(entry.name)] = arguments
    return found


def daemons_of(home: Path) -> Daemons:
    """Those of them that serve."""
    found = processes_of(home)
    return Daemons(
        mount=tuple(pid for pid, arguments in found.items() if "mount" in arguments),
        suppliers=tuple(pid for pid, arguments in found.items() if "serve" in arguments),
    )


def end(pids: Sequence[int]) -> None:
    """End processes that this benchmark started: ask, wait, kill."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        until = time.monotonic() + CLOSE_S / 6
        while any(_lives(pid) for pid in pids):
            if time.monotonic() > until:
                break
            time.sleep(PAUSE_S)
        else:
            return


def command(words: Sequence[str | Path], *, env: Mapping[str, str] | None = None, wait_s: float = COMMAND_S) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        BenchError: it failed, hangs, or is not there; with what it said.
    """
    line = " ".join(map(str, words))
    try:
        done = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=wait_s, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise BenchError(f"`{line}` did not end in {wait_s:.0f} s") from late
    except OSError as bad:
        raise BenchError(f"`{line}` cannot be run: {bad.strerror}") from bad
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BenchError(f"`{line}` ended with {done.returncode}: {said[-2000:]}")
    return done.stdout.decode(errors="replace")


# --- mounts ---------------------------------------------------------------------------------------------


def mounts() -> list[tuple[str, str, str]]:
    """Mountpoint, type and source of each mount, in the kernel's order."""
    listed = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        place, kind, source = fields.split(b" ")[4], *tail.split(b" ")[:2]
        listed.append((_plain(place), _plain(kind), _plain(source)))
    return listed


def is_mounted(place: Path) -> bool:
    """True if something is mounted at exactly this place. Does not touch it: its daemon may hang."""
    return any(mountpoint == str(place) for mountpoint, _, _ in mounts())


def unmount(place: Path) -> None:
    """Take a FUSE mount away: politely while it is busy for a moment, then lazily."""
    until = time.monotonic() + 5
    while is_mounted(place):
        last = time.monotonic() > until
        words = ["fusermount3", "-uz" if last else "-u", str(place)]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLOSE_S, check=False)
        if last:
            return
        time.sleep(PAUSE_S)


def remove_tree(place: Path) -> None:
    """Remove a temporary directory, unless something is still mounted in it."""
    for mountpoint, _, _ in mounts():
        if is_inside(mountpoint, place):
            raise BenchError(f"{place} is left: {mountpoint} is still mounted")
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        raise BenchError(f"{place} could not be removed altogether")


# --- the kernel's caches ----------------------------------------------------------------------------------


def drop_caches(what: int) -> bool:
    """Let the kernel forget clean pages or names of the whole machine. False if we may not."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text(str(what))
    except OSError:
        return False
    return True


def forget_pages(file: Path) -> None:
    """Let the kernel forget a file's clean pages; what lies beneath a mount keeps its own."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # a symlink, or unreadable: it has no pages that we read
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _is_program(argument: str) -> bool:
    name = os.path.basename(argument)
    return name == "bitdustfs" or name.startswith("bitdustfs.cli")


def is_inside(path: str, directory: Path) -> bool:
    """True if an absolute path is `directory` or below it, by name only."""
    above = str(directory).rstrip("/")
    return path == above or path.startswith(above + "/")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _plain(field: bytes) -> str:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash)."""
    for escaped, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(escaped, byte)
    return os.fsdecode(field)
