"""Hand-over: another machine of the owner wishes to write, and this one lets it.

    a wish -> everything is brought to suppliers, while people go on writing           (bringing)
           -> requests that change something are refused, and the rest is brought too  (closing)
           -> nothing is changed here any more -> the volume is let go                 (letting go)
           -> this machine only reads, and follows who writes

Until it is let go this machine is the writer: if it dies in between, it is when it starts again. If the other one
gives its wish up, or the rest cannot be brought, people here may change things again. What is let go is complete:
that everything is safe is looked at in the very moment in which the journal takes nothing on any more.

While suppliers are away, or hold a fork that nobody has chosen about, nothing can be safe, for days perhaps. Then it
is enough that everything is in a head that counts: whoever goes on finds that one, and makes it safe in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from bitdustfs.engine.files import Files
from bitdustfs.engine.holding import Holding
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.replica import Replica
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import BitdustError, ReadOnly
from bitdustfs.model import NodeId, short

PATIENCE_S: Final = 20.0  # (tune) for everything to be safe; the other one waits
CLOSED_S: Final = 60.0  # (tune) that people may be kept from writing for a hand-over that does not end
AGAIN_S: Final = 10.0  # (tune) after one that did not
_LOOK_S = 0.1
_log = logging.getLogger(__name__)


class Handover:
    """Lets the volume go when another machine wishes it."""

    def __init__(self, journal: Journal, files: Files, writer: Writer, replica: Replica, holding: Holding) -> None:
        self._journal = journal
        self._files = files
        self._writer = writer
        self._replica = replica
        self._holding = holding
        self._is_late = False  # it was waited for long enough that all be safe
        self._wished = trio.Event()
        holding.on_wish = lambda _node: self._wished.set()
        self.flush: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint  # what the kernel has not handed over
        self.on_brought: Callable[[], None] = lambda: None  # nothing is changed here any more; no await since
        self.on_let_go: Callable[[], None] = lambda: None
        self.on_step: Callable[[str], Awaitable[None]] = _nothing  # is told where it is

    async def run(self) -> None:
        """Wait for wishes until cancelled."""
        while True:
            await self._wished.wait()
            self._wished = trio.Event()
            node = self._holding.wished_by
            if node is None or self._journal.refusal is not None or not self._holding.is_held:
                continue
            _log.info("node %s wishes to write this volume", short(node))
            try:
                if await self._hand_over(node):
                    return
            except BitdustError as error:
                _log.warning("the volume is not handed over now: %s", error)
            finally:
                self._journal.reopen()
            await trio.sleep(AGAIN_S)

    # -- private ---------------------------------------------------------------------------------------------

    async def _hand_over(self, node: NodeId) -> bool:
        """Say whether it was let go."""
        is_brought, failed = False, None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._while_wished, nursery.cancel_scope)
            try:
                is_brought = await self._brought(node)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        if not is_brought:
            _log.info("the volume is kept: the other machine gave up, or what is only here cannot be brought now")
            return False
        await self.on_step("letting go")
        await self._holding.let_go()
        await self.on_step("let go")
        _log.info("node %s may write the volume from now on", short(node))
        self.on_let_go()
        return True

    async def _brought(self, node: NodeId) -> bool:
        """Bring everything, and take nothing on any more. Says whether it came to that."""
        self._is_late = False
        await self.on_step("bringing")
        await self._bring()
        await self.on_step("closing")
        await self.flush()
        self._journal.close(ReadOnly(what="another machine of yours goes on with the volume: wait a moment"))
        with trio.move_on_after(CLOSED_S):
            while not self._is_brought():  # no await until nothing is taken on, and that is said
                await self._bring()
            self._forbid(node)
            self.on_brought()
            return True
        return False

    async def _bring(self) -> None:
        await self._writer.flush()
        if not self._is_late:
            with trio.move_on_after(PATIENCE_S) as patience:
                await self._replica.make_safe()
            self._is_late = patience.cancelled_caught
        if self._is_late:
            await self._replica.make_counted()
        await trio.sleep(_LOOK_S)

    def _is_brought(self) -> bool:
        if self._files.dirty_lives():
            return False
        return self._replica.is_current or (self._is_late and self._replica.is_counted)

    def _forbid(self, node: NodeId) -> None:
        self._journal.forbid(
            ReadOnly(
                what=f"another machine of yours (node {short(node)}) writes this volume now, and everything "
                "from here is at the suppliers; what it writes is shown here. To write here again, unmount and mount"
            )
        )

    async def _while_wished(self, scope: trio.CancelScope) -> None:
        """Give up when nobody wishes it any more."""
        while self._holding.wished_by is not None:
            await trio.sleep(_LOOK_S)
        scope.cancel()


async def _nothing(_step: str) -> None:
    await trio.lowlevel.checkpoint()
