"""The work of a benchmark: what is done on a side, and what is measured of it.

Each stage yields samples (row, value) and checks every byte that it reads. Making bytes and comparing them is outside
the measured time.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench_bytes import MIB, PAGE, Content, compare_trees, plant_small, plant_tree
from bench_report import Row
from bench_sides import Side
from bench_system import WrongBytes, command, cpu_seconds, forget_pages

GIB = 1 << 30
_COLD_SHARE = 4  # a cold random read is a round trip: a quarter as many of them
_FSYNC_SHARE = 20  # and of writes with an fsync each

Samples = Iterator[tuple[str, float]]

LOOP_STEP = Row("loop", "longest step of the mount's event loop", "ms", False)  # of processor time, since it began

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "write_fsync": Row("write", "write, until fsync returns", "MB/s", True),
        "write_sync": Row("write", "write, until sync returns", "MB/s", True),
        "write_cpu": Row("write", "  CPU of all daemons", "s/GiB", False),
        "read_cold": Row("read", "read, cold", "MB/s", True),
        "read_cpu": Row("read", "  CPU of all daemons", "s/GiB", False),
        "read_warm": Row("read", "read, warm", "MB/s", True),
        "dead_read": Row("dead", "read, cold, n - k suppliers dead", "MB/s", True),
        "dead_cpu": Row("dead", "  CPU of all daemons", "s/GiB", False),
        "small_cp": Row("small", "cp -r, {files} files of 4 KiB", "files/s", True),
        "small_sync": Row("small", "  sync after it", "s", False),
        "small_cpu": Row("small", "  CPU of the mounting process until then", "s", False),
        "small_read": Row("small", "  reading them, cold", "files/s", True),
        "small_rm": Row("small", "  rm -rf of them", "s", False),
        "small_rm_cpu": Row("small", "  CPU of the mounting process for that", "s", False),
        "rsync_first": Row("rsync", "rsync -a, {tree} real files", "s", False),
        "rsync_again": Row("rsync", "  again, nothing changed", "s", False),
        "rsync_remount": Row("rsync", "  again, after a remount", "s", False),
        "rsync_cpu": Row("rsync", "  CPU of the mounting process, both", "s", False),
        "git_clone": Row("git", "git clone, {tree} real files", "s", False),
        "git_status": Row("git", "  git status", "s", False),
        "git_status_cold": Row("git", "  git status, cold", "s", False),
        "find_cold": Row("find", "find, {tree} real files, cold", "s", False),
        "find_warm": Row("find", "find, warm", "s", False),
        "random_read_cold": Row("random", "random 4 KiB reads, cold", "/s", True),
        "random_read_local": Row("random", "random 4 KiB reads, not in kernel", "/s", True),
        "random_read_warm": Row("random", "random 4 KiB reads, warm", "/s", True),
        "random_write": Row("random", "random 4 KiB writes, one fsync", "/s", True),
        "random_fsync": Row("random", "random 4 KiB write + fsync, each", "ms", False),
        "memory_mount": Row("memory", "peak memory, mounting process", "MiB", False),
        "memory_supplier": Row("memory", "peak memory, largest supplier", "MiB", False),
        "loop_step": LOOP_STEP,
    }
)
STAGES = ("write", "read", "dead", "small", "rsync", "git", "find", "random")


@dataclass(frozen=True, slots=True)
class Load:
    """How much of everything. `size_bytes` is a multiple of 4 KiB."""

    size_bytes: int
    files: int
    operations: int
    tree: Path
    stages: frozenset[str]


class Run:
    """One run on one side, in a directory of its own there."""

    def __init__(self, side: Side, load: Load, place: Path, temporary: Path, say: Callable[[str], None]) -> None:
        self._side, self._load, self._say = side, load, say
        self._place, self._temporary = place, temporary
        self._big = place / "big"
        self._content = Content(load.size_bytes)

    def samples(self) -> Samples:
        """Do all stages that are wanted, and measure."""
        wanted = self._load.stages
        self._side.start_peaks()
        if "write" in wanted:
            yield from self._stage("write", self.write)
        if {"read", "random", "dead"} & wanted and "write" not in wanted:
            self._put_big()
        if "read" in wanted:
            yield from self._stage("read", self.read)
        if "dead" in wanted:  # before the file is written over in thousands of places
            yield from self._stage("dead", self._dead)
        if "small" in wanted:
            yield from self._stage("small", self._small)
        if {"rsync", "find"} & wanted:
            yield from self._trees()
        if "git" in wanted:
            yield from self._stage("git", self._git)
        if "random" in wanted:
            yield from self._stage("random", self._random)
        for role, peak in self._side.peaks().items():
            yield f"memory_{role}", peak / MIB
        yield from longest_step(self._side)

    def _stage(self, name: str, work: Callable[[], Samples]) -> Samples:
        self._say(f"{self._side.name}: {name}")
        yield from work()

    # --- one big file ---

    def _put_big(self) -> float:
        """Write it. Returns the seconds until fsync came back; the bytes cost 30 us a MiB."""
        spent = Stopwatch()
        with spent:
            descriptor = os.open(self._big, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                for piece in self._content.pieces():
                    put(descriptor, piece)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return spent.seconds

    def write(self) -> Samples:
        cpu = Cpu(self._side)
        written_s = self._put_big()
        settled_s = written_s + timed(self._side.settle)
        yield "write_fsync", self._megabytes / written_s
        yield "write_sync", self._megabytes / settled_s
        yield from cpu.per_gib("write_cpu", self._load.size_bytes)

    def read(self) -> Samples:
        self._side.forget()
        cpu = Cpu(self._side)
        cold_s = self._read_big()
        yield from cpu.per_gib("read_cpu", self._load.size_bytes)
        yield "read_cold", self._megabytes / cold_s
        yield "read_warm", self._megabytes / self._read_big()

    def remove(self) -> None:
        """Take away what this run wrote."""
        shutil.rmtree(self._place)
        shutil.rmtree(self._temporary)

    def _dead(self) -> Samples:
        self._side.forget()
        with self._side.losing() as is_some:
            if is_some:
                cpu = Cpu(self._side)
                cold_s = self._read_big()
                yield from cpu.per_gib("dead_cpu", self._load.size_bytes)
                yield "dead_read", self._megabytes / cold_s

    def _read_big(self) -> float:
        """Read and compare it. Returns the seconds of both: while one compares, the other side reads ahead.

        A bytearray and a view are compared at memcmp's speed, 40 us a MiB; two views would take 2500.
        """
        buffer = bytearray(MIB)
        spent = Stopwatch()
        with spent, memoryview(buffer) as view, open(self._big, "rb", buffering=0) as file:
            for number, piece in enumerate(self._content.pieces()):
                count = file.readinto(view[: len(piece)]) or 0
                while 0 < count < len(piece):
                    more = file.readinto(view[count : len(piece)]) or 0
                    count = count + more if more else -1
                if count != len(piece) or (buffer if count == MIB else buffer[:count]) != piece:
                    raise WrongBytes(f"{self._big}: wrong bytes in MiB {number}")
            if file.read(1):
                raise WrongBytes(f"{self._big}: longer than what was written")
        return spent.seconds

    @property
    def _megabytes(self) -> float:
        return self._load.size_bytes / 1e6

    # --- many small files ---

    def _small(self) -> Samples:
        source, target = self._temporary / "small", self._place / "small"
        written = plant_small(source, self._load.files)
        cpu = MountCpu(self._side)
        copied_s = timed(lambda: command(["cp", "-r", source, target]))
        yield "small_cp", len(written) / copied_s
        yield "small_sync", timed(self._side.settle)
        yield from cpu.spent("small_cpu")
        self._side.forget()
        read, spent = {}, Stopwatch()
        with spent:
            for path in written:
                read[path] = (target / path).read_bytes()
        for path, content in written.items():
            if read[path] != content:
                raise WrongBytes(f"{target / path}: wrong bytes")
        yield "small_read", len(written) / spent.seconds
        cpu = MountCpu(self._side)
        yield "small_rm", timed(lambda: command(["rm", "-rf", target]))
        yield from cpu.spent("small_rm_cpu")
        if target.exists():
            raise WrongBytes(f"{target} is there after rm -rf")
        shutil.rmtree(source)

    # --- a real tree ---

    def _trees(self) -> Samples:
        source, target = self._temporary / "tree", self._place / "tree"
        names = plant_tree(self._load.tree, source)
        if "rsync" in self._load.stages:
            yield from self._stage("rsync", lambda: self._rsync(source, target))
        else:
            shutil.copytree(source, target, symlinks=True)
        if "find" in self._load.stages:
            yield from self._stage("find", lambda: self._find(target, names))
        compare_trees(source, target)
        shutil.rmtree(source)
        shutil.rmtree(target)

    def _rsync(self, source: Path, target: Path) -> Samples:
        words = ["rsync", "-a", f"{source}/", f"{target}/"]
        cpu = MountCpu(self._side)
        yield "rsync_first", timed(lambda: command(words))
        spent = Stopwatch()
        with spent:
            changed = command(["rsync", "-ai", *words[2:]])
        if changed:
            raise WrongBytes(f"rsync had to do again: {changed.splitlines()[:5]}")
        yield "rsync_again", spent.seconds
        yield from cpu.spent("rsync_cpu")
        if self._side.remount():
            yield "rsync_remount", timed(lambda: command(words))

    def _git(self) -> Samples:
        """A repository with one commit is made outside, cloned here, and asked whether anything changed."""
        source, target = self._temporary / "repository", self._place / "repository"
        plant_tree(self._load.tree, source)
        git(source, "init", "--quiet")
        git(source, "add", "--force", "--all")
        git(source, "commit", "--quiet", "--no-verify", "--message", "all of it")
        yield "git_clone", timed(lambda: git(self._place, "clone", "--quiet", "--no-hardlinks", source, target))
        for row in ("git_status", "git_status_cold"):
            if row == "git_status_cold":
                self._side.forget()
            spent = Stopwatch()
            with spent:
                changed = git(target, "status", "--porcelain")
            if changed:
                raise WrongBytes(f"git finds changes in {target}: {changed.splitlines()[:5]}")
            yield row, spent.seconds
        git(target, "fsck", "--strict")
        shutil.rmtree(source)
        shutil.rmtree(target)

    def _find(self, target: Path, names: int) -> Samples:
        self._side.forget()
        for row in ("find_cold", "find_warm"):
            spent = Stopwatch()
            with spent:
                found = command(["find", target]).count("\n")
            if found != names:
                raise WrongBytes(f"find lists {found} names in {target}, not {names}")
            yield row, spent.seconds

    # --- random pages ---

    def _random(self) -> Samples:
        self._side.forget()
        cold = self._pages(self._load.operations // _COLD_SHARE)
        yield "random_read_cold", len(cold) / self._read_pages(cold)
        self._read_big()  # now it is all here
        forget_pages(self._big)
        pages = self._pages(self._load.operations)
        yield "random_read_local", len(pages) / self._read_pages(pages)
        yield "random_read_warm", len(pages) / self._read_pages(pages)
        pages = self._pages(self._load.operations)
        yield "random_write", len(pages) / sum(self._write_pages(pages, fsync_each=False))
        pages = self._pages(self._load.operations // _FSYNC_SHARE)
        yield "random_fsync", statistics.median(self._write_pages(pages, fsync_each=True)) * 1e3
        self._side.forget()
        self._read_big()  # and all writes arrived

    def _pages(self, count: int) -> list[int]:
        """Different page numbers in random order."""
        every = range(self._load.size_bytes // PAGE)
        return random.sample(every, max(1, min(count, len(every))))

    def _read_pages(self, pages: list[int]) -> float:
        descriptor = os.open(self._big, os.O_RDONLY)
        try:
            spent = Stopwatch()
            with spent:
                read = [os.pread(descriptor, PAGE, page * PAGE) for page in pages]
        finally:
            os.close(descriptor)
        for page, content in zip(pages, read, strict=True):
            if content != self._content.page(page):
                raise WrongBytes(f"{self._big}: wrong bytes in page {page}")
        return spent.seconds

    def _write_pages(self, pages: list[int], *, fsync_each: bool) -> list[float]:
        """Write new bytes there. Returns the seconds of each write with its fsync, or of all with one."""
        changes = [(page * PAGE, self._content.write_over(page)) for page in pages]
        seconds = []
        descriptor = os.open(self._big, os.O_WRONLY)
        try:
            for group in [[change] for change in changes] if fsync_each else [changes]:
                spent = Stopwatch()
                with spent:
                    for offset, content in group:
                        if os.pwrite(descriptor, content, offset) != PAGE:
                            raise WrongBytes(f"{self._big}: a short write")
                    os.fsync(descriptor)
                seconds.append(spent.seconds)
        finally:
            os.close(descriptor)
        return seconds


# --- measuring ------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds between enter and exit. It has no pause: uploads and read-ahead have none either."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> Stopwatch:
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._since


def longest_step(side: Side) -> Samples:
    """One sample, if the side tells it; and whose step it was, for who looks on."""
    took_s, task = side.longest_step()
    if took_s:
        print(f"bench: the longest step took {took_s * 1e3:.0f} ms: {task}", file=sys.stderr)
        yield "loop_step", took_s * 1e3


class Cpu:
    """What the daemons of a side spend from here on."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._before = cpu_seconds(side.daemons().all)

    def per_gib(self, row: str, moved_bytes: int) -> Samples:
        """One sample, if the side has daemons."""
        after = cpu_seconds(self._side.daemons().all)
        if after:
            spent = sum(seconds - self._before.get(pid, 0.0) for pid, seconds in after.items())
            yield row, spent * GIB / moved_bytes


class MountCpu:
    """What the process that serves the mount spends from here on; a busy machine changes it less than the time."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._before = self._sum()

    def spent(self, row: str) -> Samples:
        """One sample, if there is such a process."""
        if self._side.daemons().mount:
            yield row, self._sum() - self._before

    def _sum(self) -> float:
        return sum(cpu_seconds(self._side.daemons().mount).values())


def git(directory: Path, *words: str | Path) -> str:
    """Run git there, whatever the person's own settings are."""
    nobody = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "core.hooksPath=/dev/null"]
    apart = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return command(["git", *nobody, "-C", directory, *words], env=apart)


def timed(work: Callable[[], object]) -> float:
    """The seconds of a call."""
    spent = Stopwatch()
    with spent:
        work()
    return spent.seconds


def put(descriptor: int, content: memoryview) -> None:
    """Write it all."""
    while content:
        content = content[os.write(descriptor, content) :]
