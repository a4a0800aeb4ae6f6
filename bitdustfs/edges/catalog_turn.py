"""The turn at the catalog's write-ahead log, between the loop's transactions and the worker that checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """Whose turn it is with the WAL: the writer's transactions, or a worker that claims the gap between two."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._writing = False
        self._claimed = False

    def enter(self) -> None:
        """Begin a transaction, after the worker that has the turn."""
        with self._changed:
            while self._claimed:
                self._changed.wait()
            self._writing = True

    def leave(self) -> None:
        """End a transaction."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()

    @contextmanager
    def claim(self, timeout_s: float) -> Iterator[bool]:
        """Take the turn when the open transaction has ended, before the next. False: it did not end in time."""
        with self._changed:
            self._claimed = True
            ours = self._changed.wait_for(lambda: not self._writing, timeout_s)
        try:
            yield ours
        finally:
            with self._changed:
                self._claimed = False
                self._changed.notify_all()
