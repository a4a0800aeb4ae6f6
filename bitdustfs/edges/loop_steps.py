"""How long the steps of the event loop keep its thread busy: the probe behind `longest_step` in `status --json`.

A step is what a task does between two waits. Meanwhile no request of the kernel is answered and no supplier heard, so
each is to take less than LONG_S. The thread's processor time is counted, and not what other programs take from it.
The task that answers the kernel may answer many requests in one step, of a few milliseconds; see `fuse_turn`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

LONG_S = 0.020  # DESIGN.md section 3
MARK_EVERY_S = 0.002  # its processor time is a system call: a long step may be told with so much of earlier ones


class LoopSteps(trio.abc.Instrument):
    """The longest step since it began to watch.

    Args:
        clock: the time, in seconds from anywhere; it costs little, and tells which steps were short.
        cpu: processor time of this thread, in seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._began_s = -1.0  # of the step that runs; below 0: it began before we watched
        self._marked_s = -MARK_EVERY_S  # when the processor time was read last
        self._marked_cpu_s = 0.0
        self.longest_s = 0.0
        self.longest_task = ""
        self.long = 0  # how many took more than LONG_S

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside. Within a run of trio."""
        self._began_s = -1.0
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._began_s = began_s = self._clock()
        if began_s - self._marked_s >= MARK_EVERY_S:
            self._marked_s, self._marked_cpu_s = began_s, self._cpu()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took_s = self._clock() - self._began_s
        if (took_s <= self.longest_s and took_s <= LONG_S) or self._began_s < 0:
            return
        took_s = min(took_s, self._cpu() - self._marked_cpu_s)
        if took_s > LONG_S:
            self.long += 1
        if took_s > self.longest_s:
            self.longest_s, self.longest_task = took_s, task.name
