"""The journal: when the catalog's open transaction ends, and when it is durable.

Operations are savepoints in one open transaction. It is committed 20 ms after its first change, after 500 changes,
or when somebody needs durability; concurrent needs share one commit and one fdatasync. What the engine keeps in
memory for speed (live sizes, extents) is flushed into the transaction right before each commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from bitdustfs.errors import BitdustError
from bitdustfs.ports import Catalog

COMMIT_AFTER_S = 0.020  # (tune) what a `kill -9` may cost at most
COMMIT_AFTER_CHANGES = 500  # (tune) bounds the pause of one commit on the loop
_RETRY_S = 1.0  # after a failed commit, for instance on a full disk
_log = logging.getLogger(__name__)


class Journal:
    """Commit policy over one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._flushers: list[Callable[[], None]] = []
        self._armed = trio.Event()
        self._full = trio.Event()
        self._changes = 0
        self._afterwards: list[Callable[[], None]] | None = None

    def before_commit(self, flush: Callable[[], None]) -> None:
        """Call `flush` right before each commit, to put what is kept in memory into the transaction."""
        self._flushers.append(flush)

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Make the changes inside all or nothing, and have them committed soon."""
        outermost = self._afterwards is None
        if self._afterwards is None:
            self._afterwards = []
        afterwards = self._afterwards
        mark = len(afterwards)
        try:
            with self._catalog.savepoint():
                yield
        except BaseException:
            del afterwards[mark:]
            raise
        finally:
            if outermost:
                self._afterwards = None
        if outermost:
            for change in afterwards:
                change()
        self.note()

    def afterwards(self, change: Callable[[], None]) -> None:
        """Change something in memory once the operation around this call has succeeded; at once without one."""
        if self._afterwards is None:
            change()
        else:
            self._afterwards.append(change)

    def note(self) -> None:
        """Say that something changed that a flusher will write."""
        self._changes += 1
        self._armed.set()
        if self._changes >= COMMIT_AFTER_CHANGES:
            self._full.set()

    def commit(self) -> None:
        """Flush and commit now. Survives `kill -9`. Raises DiskFull, DiskFault; nothing is forgotten."""
        for flush in self._flushers:
            flush()
        self._catalog.commit()
        self._changes = 0
        self._armed = trio.Event()
        self._full = trio.Event()

    async def durable(self) -> None:
        """Make everything up to now survive a power loss. Raises DiskFull, DiskFault."""
        self.commit()
        await self._catalog.harden()

    async def run(self) -> None:
        """Commit what operations leave, until cancelled; then once more."""
        try:
            while True:
                await self._armed.wait()
                with trio.move_on_after(COMMIT_AFTER_S):
                    await self._full.wait()
                try:
                    self.commit()
                except BitdustError as e:
                    _log.error("the catalog could not be committed, trying again: %s", e)
                    await trio.sleep(_RETRY_S)
                await self._catalog.checkpoint()
        finally:
            self.commit()
