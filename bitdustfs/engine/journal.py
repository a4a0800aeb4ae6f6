"""The journal: when the catalog's open transaction ends, and when it is durable.

Operations are savepoints in one open transaction. It is committed 20 ms after its first change, after 500 changes,
or when somebody needs durability; concurrent needs share one commit and one fdatasync. What the engine keeps in
memory for speed (live sizes, extents) is flushed into the transaction right before each commit. Copies of what
suppliers have may be lost, so they alone make no commit for a second: a read must not cost one. Whatever keeps the
task of the commits from its turn, no more than `CHANGES_MOST` get into one transaction: the next one commits first.

While the disk takes no commit, what was done before stays in the open transaction, is seen by reads, and is tried
again each second. Nothing more is taken on (`admit`): it would only grow in memory. So a full disk makes the volume
read-only for as long as it is full, and a damaged catalog until it was repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import trio

from bitdustfs.engine.bell import Bell
from bitdustfs.errors import BitdustError
from bitdustfs.ports import Catalog

COMMIT_AFTER_S = 0.020  # (tune) what a `kill -9` may cost at most
COMMIT_AFTER_CHANGES = 500  # (tune) bounds the pause of one commit on the loop
CHANGES_MOST = 2 * COMMIT_AFTER_CHANGES  # (tune) which bounds memory as well: each may have 4 KiB, several times over
LATER_S = 1.0  # (tune) after what a crash may take
LATER_CHANGES = 100  # (tune) of that kind, up to 16 KiB each, are in memory twice at most
_RETRY_S = 1.0  # after a failed commit, for instance on a full disk
_RETRY_SOONEST_S = 0.1  # each try does the whole transaction again, and a storm of fsyncs must not stop the loop
_log = logging.getLogger(__name__)


class Journal:
    """Commit policy over one catalog.

    Args:
        bell: rung after each operation and each commit of a change, and when commits succeed again; None: nobody
            waits for it.
    """

    def __init__(self, catalog: Catalog, bell: Bell | None = None) -> None:
        self._catalog = catalog
        self.bell = bell or Bell()
        self._flushers: list[Callable[[], None]] = []
        self._noted = trio.Event()  # there is something to commit
        self._armed = trio.Event()  # and soon
        self._full = trio.Event()  # and now
        self._committed = trio.Event()
        self._recovered = trio.Event()  # a commit succeeded after one that failed
        self._changes = 0
        self._later = 0
        self._afterwards: list[Callable[[], None]] | None = None
        self._failed: BitdustError | None = None  # how the last commit ended
        self._failed_at = 0.0  # trio time
        self._forbidden: BitdustError | None = None
        self._closed: BitdustError | None = None
        self._released: trio.Event | None = None  # set once a step has ended; None: there is none

    @property
    def refusal(self) -> BitdustError | None:
        """Why no change is taken on now. None: changes are taken."""
        return self._catalog.failure or self._forbidden or self._failed

    @property
    def is_forbidden(self) -> bool:
        """No change will be taken on any more, whatever the disk does: this machine is not the one that writes."""
        return self._forbidden is not None

    def forbid(self, why: BitdustError) -> None:
        """Take no change on any more. What was taken on is still stored."""
        self._forbidden = why

    def permit(self, why: BitdustError) -> None:
        """Take changes on again, if this was why none was taken on."""
        if self._forbidden is why:
            self._forbidden = None

    @property
    def keeps(self) -> bool:
        """Whether rows that only this machine needs are stored now, also where no change is taken on."""
        return self._catalog.failure is None and self._failed is None and self._released is None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Commit nothing inside, but by `commit_now`: a step of a reader has the catalog for itself."""
        assert self._released is None, "one step at a time"
        released = self._released = trio.Event()
        try:
            yield
        finally:
            self._released = None
            released.set()
            self.bell.ring()

    def close(self, why: BitdustError) -> None:
        """Have requests of people refused that change something, until `reopen`; services go on."""
        self._closed = why

    def reopen(self) -> None:
        """End what `close` began."""
        self._closed = None

    def admit_request(self) -> None:
        """Refuse a request of a person that changes something, while it is closed. Raises what it was closed with."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)

    def admit(self) -> None:
        """Refuse a change that could not be stored.

        Raises:
            DiskFull, DiskFault: until a commit succeeds. ReadOnly: for good.
        """
        if self._changes >= CHANGES_MOST and self.refusal is None:
            self.commit()
        refusal = self.refusal
        if refusal is not None:
            raise refusal.with_traceback(None)  # it is raised many times, and each adds to its traceback

    def before_commit(self, flush: Callable[[], None]) -> None:
        """Call `flush` right before each commit, to put what is kept in memory into the transaction."""
        self._flushers.append(flush)

    def operation(self, *, admitted: bool = False) -> Operation:
        """Make the changes inside all or nothing, and have them committed soon.

        Args:
            admitted: it ends something that was begun long ago, and is taken on whatever the disk does.
        Raises:
            DiskFull, DiskFault, ReadOnly: nothing was done; see `admit`.
        """
        return Operation(self, admitted=admitted)

    def afterwards(self, change: Callable[[], None]) -> None:
        """Change something in memory once the operation around this call has succeeded; at once without one."""
        if self._afterwards is None:
            change()
        else:
            self._afterwards.append(change)

    def note(self) -> None:
        """Say that something changed that a flusher will write."""
        self._changes += 1
        self.bell.ring()
        self._noted.set()
        self._armed.set()
        if self._changes >= COMMIT_AFTER_CHANGES:
            self._full.set()

    def note_later(self) -> None:
        """The same of something that a crash may take."""
        self._later += 1
        self._noted.set()
        if self._later >= LATER_CHANGES:
            self._armed.set()

    def commit(self) -> None:
        """Flush and commit now, or after the step that has the catalog. Survives `kill -9`.

        Raises:
            DiskFull, DiskFault: nothing is forgotten.
        """
        if self._released is None:
            self.commit_now()

    def commit_now(self) -> None:
        """The same, also by whoever is `holding`."""
        if self._failed is not None and trio.current_time() < self._failed_at + _RETRY_SOONEST_S:
            self.admit()
        before = self._catalog.last_change
        try:
            for flush in self._flushers:
                flush()
            self._catalog.commit()
        except BitdustError as e:
            if self._failed is None:
                _log.error("nothing can be stored now: %s", e)
            self._failed, self._failed_at = e, trio.current_time()
            raise
        if self._failed is not None:
            _log.info("changes are stored again")
            self._failed = None
            self._recovered.set()
            self.bell.ring()
        elif self._catalog.last_change != before:
            self.bell.ring()  # of what was changed without an operation nobody was told: who is hired by hand
        self._changes = self._later = 0
        if self._noted.is_set():  # else `run` waits for this one, and would for ever
            self._noted = trio.Event()
        if self._armed.is_set():
            self._armed = trio.Event()
        self._full = trio.Event()
        self._committed.set()

    async def durable(self) -> None:
        """Make everything up to now survive a power loss. Raises DiskFull, DiskFault."""
        while self._released is not None:
            await self._released.wait()
        self.commit()
        await self._catalog.harden()

    async def run(self) -> None:
        """Commit what operations leave, until cancelled; then once more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._checkpoint)
            try:
                await self._commit()
            finally:
                if self.keeps:
                    self.commit()

    # -- private ---------------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        while True:
            await self._noted.wait()
            if not self._armed.is_set():
                with trio.move_on_after(LATER_S):
                    await self._armed.wait()
            with trio.move_on_after(COMMIT_AFTER_S):
                await self._full.wait()
            while self._released is not None:
                await self._released.wait()
            try:
                self.commit()
            except BitdustError as e:  # the first time it was said already
                _log.debug("trying again to store what is waiting: %s", e)
                self._recovered = trio.Event()
                with trio.move_on_after(_RETRY_S):  # somebody else may try, and then changes are taken on again
                    await self._recovered.wait()

    async def _checkpoint(self) -> None:
        """Keep the catalog's log short, beside the commits: no change waits longer because of it."""
        while True:
            await self._committed.wait()
            self._committed = trio.Event()
            try:
                await self._catalog.checkpoint()
            except BitdustError as e:
                _log.debug("the log of the catalog stays as it is for now: %s", e)
                await trio.sleep(_RETRY_S)


class Operation:
    """See `Journal.operation`. A class, because each request does one: a generator costs three times as much."""

    __slots__ = ("_admitted", "_journal", "_mark", "_outermost", "_savepoint")

    def __init__(self, journal: Journal, *, admitted: bool) -> None:
        self._journal = journal
        self._admitted = admitted

    def __enter__(self) -> None:
        journal = self._journal
        self._outermost = journal._afterwards is None
        if journal._afterwards is None:
            if not self._admitted:
                journal.admit()
            journal._afterwards = []
        self._mark = len(journal._afterwards)
        self._savepoint = journal._catalog.savepoint()
        self._savepoint.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        journal = self._journal
        afterwards = journal._afterwards
        assert afterwards is not None
        if self._outermost:
            journal._afterwards = None
        try:
            self._savepoint.__exit__(kind, error, trace)
        except BaseException:
            del afterwards[self._mark :]
            raise
        if kind is not None:
            del afterwards[self._mark :]
            return
        if self._outermost:
            for change in afterwards:
                change()
        journal.note()
