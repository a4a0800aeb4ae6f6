"""The real clock, dice and worker threads."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

T = TypeVar("T")


class SystemWall:
    """A ports.Wall: the machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()


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

    async def run(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(work, *args), limiter=self._limiter)
