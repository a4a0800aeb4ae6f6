"""The real clock, dice and worker threads."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from bitdustfs.model import Suite

T = TypeVar("T")

BOOT_ID_VARIABLE = "BITDUSTFS_BOOT_ID"  # for tests, which cannot cut the power
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A worker that runs Python holds the interpreter's lock for this long before the loop gets it back. Every SQL
# statement and every send lets the lock go, so with Python's 5 ms a busy worker would slow each request by as much.
SWITCH_S = 0.0005
GARBAGE_OBJECTS = 20_000  # young objects before a collection; the loop makes many that live for one turn only
MOST_OPEN_FILES = 65536  # where the machine sets no limit
# Buffers of a block are taken and given back all the time. By default each is mapped anew, and the kernel clears its
# pages again: on virtual machines that costs more than sealing what is in them.
_MALLOC = (
    (-3, 32 * 1024 * 1024),  # M_MMAP_THRESHOLD: smaller buffers come from the heap
    (-1, 64 * 1024 * 1024),  # M_TRIM_THRESHOLD: so much of it is kept when it is free
    (-2, 4 * 1024 * 1024),  # M_TOP_PAD: it grows in steps of this
    (-8, 2),  # M_ARENA_MAX: one heap for the loop, one for all workers
)


def tune_process() -> None:
    """Set interpreter and allocator up for a loop with busy worker threads. Once, at the start of a daemon."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(GARBAGE_OBJECTS, 20, 50)
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc has it, musl does not
        for parameter, value in _MALLOC:
            libc.mallopt(parameter, value)


def allow_open_files() -> int:
    """Have as many files and connections open as this machine lets us. Returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, MOST_OPEN_FILES) if hard == resource.RLIM_INFINITY else hard
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def suite_for(cpuinfo: str) -> Suite:
    """The faster cipher for a processor: AES-GCM where it has instructions for AES.

    Args:
        cpuinfo: what Linux says in /proc/cpuinfo; "flags" on x86, "Features" on ARM.
    """
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return Suite.AES_256_GCM if "aes" in words.split() else Suite.CHACHA20_POLY1305
    return Suite.AES_256_GCM  # nothing is known, and most processors have them


def best_suite() -> Suite:
    """The faster cipher on this machine. Blocks record theirs, so it may differ from machine to machine."""
    try:
        return suite_for(Path("/proc/cpuinfo").read_text())
    except OSError:
        return suite_for("")


def boot_id() -> bytes:
    """Which boot of this machine it is: another one after each power loss. b"": the kernel does not say."""
    try:
        return os.environ.get(BOOT_ID_VARIABLE, "").encode() or _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


class SystemWall:
    """A ports.Wall: the machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def awake_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemEntropy:
    """A ports.Entropy: the kernel's random numbers."""

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class ThreadCrunch:
    """A ports.Crunch: one worker thread for each processor; more would only take turns.

    Args:
        threads: how many pieces of work run at once. Work that waits for a disk may want more than processors.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._limiter = trio.CapacityLimiter(threads or max(2, os.cpu_count() or 1))

    @property
    def threads(self) -> int:
        return int(self._limiter.total_tokens)

    async def run(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(work, *args), limiter=self._limiter)
