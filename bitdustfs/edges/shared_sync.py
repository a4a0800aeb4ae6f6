"""One fsync for all who wait: callers that arrive while one runs share the next.

A caller wants what was written before its call to be durable. A sync that is already running may have begun
before that, so it proves nothing; the next one does, for everybody who arrived meanwhile. A sync that failed is
final: the kernel may have dropped the pages it could not write, so a second try on the same descriptor would
succeed without having stored anything.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from bitdustfs.errors import BitdustError


class SharedSync:
    """Makes writes durable, in a worker thread, as few times as possible.

    Args:
        sync: blocking; makes durable what was written before it was called. Raises OSError.
        translate: turns that OSError into the error that callers get.
    """

    def __init__(self, sync: Callable[[], None], translate: Callable[[OSError], BitdustError]) -> None:
        self._sync = sync
        self._translate = translate
        self._turn = trio.Lock()
        self._written = 0  # counts changes
        self._durable = 0  # up to which of them a sync has proven
        self.failure: BitdustError | None = None

    def changed(self) -> None:
        """Note a write that is not durable yet."""
        self._written += 1

    async def harden(self) -> None:
        """Return when everything noted before this call is durable."""
        goal = self._written
        if self._durable >= goal and self.failure is None:
            await trio.lowlevel.checkpoint()
            return
        async with self._turn:
            if self.failure is not None:
                raise self.failure.with_traceback(None)  # each raising adds to it
            if self._durable >= goal:
                return
            upto = self._written
            try:
                await trio.to_thread.run_sync(self._sync)
            except OSError as e:
                self.failure = self._translate(e)
                raise self.failure from e
            self._durable = upto
