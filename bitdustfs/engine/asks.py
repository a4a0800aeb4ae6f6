"""Asks: who is asked for something and has not answered, and when others are asked instead.

`look` goes over everything that suppliers are asked for now, as `core.patience` says: others are asked instead of
one that is quiet, if they are enough to do without it; else there is nothing better than to wait for it. One whose
answer is overdue by what is known of its speed and that of others (`core.speed`) is hedged: others are asked, and its
answer passes by unread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Protocol

import trio

from bitdustfs.core.patience import ELSEWHERE_S, SILENT_S
from bitdustfs.core.speed import HEDGE_S, is_overdue
from bitdustfs.engine.speeds import Asked, Speeds
from bitdustfs.model import BlockNo, BlockRow, FragmentName, SupplierNo
from bitdustfs.ports import Leaves

LATE_S = 5.0  # (tune) an answer that takes longer is left to come, if others are enough
LATE_TIMES = 2.0  # (tune) of what it would have taken by what is known of it
SLOW_FOR_S = 30.0  # who was late is asked last for this long
ASK_MOST_S = 60.0  # twice the deadline of a read: then nobody waits for it any more
LOOK_PAUSE_S = 0.01  # the least time between two looks
HEDGE_SHARE = 0.05  # (tune) of all answers may be asked of others too while they are under way
HEDGES_MOST = 8.0  # (tune) of them one after the other
_log = logging.getLogger(__name__)


class FragmentSource(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    def quiet_s(self, supplier: SupplierNo) -> float:
        """How long not a byte has come from a supplier that owes an answer; see core.patience."""
        ...

    def is_held_back(self) -> bool:
        """Whether a limit of our own keeps answers waiting."""
        ...

    def way_s(self, supplier: SupplierNo) -> float:
        """The shortest time there and back that was seen; 0: none was."""
        ...

    def doubt(self, supplier: SupplierNo) -> None:
        """Find out whether the connection is alive."""
        ...

    async def get(
        self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool
    ) -> Leaves: ...


@dataclass(slots=True, eq=False)
class Ask:
    """A request to a supplier that is not answered yet."""

    supplier: SupplierNo
    block: BlockRow
    since: float
    scope: trio.CancelScope
    asked: Asked
    may_hedge: bool
    is_hedged: bool = False  # it ended because others are quicker


class Asks:
    """What suppliers are asked for now.

    Args:
        holders: fragment index -> reachable suppliers that hold it, of a block.
    """

    def __init__(
        self, source: FragmentSource, holders: Callable[[BlockNo], Mapping[int, Sequence[SupplierNo]]]
    ) -> None:
        self._source = source
        self._holders = holders
        self._asks: dict[BlockNo, list[Ask]] = {}
        self._hoping: dict[BlockNo, float] = {}  # since when a fetch waits for newcomers
        self._asking = trio.Event()  # or hoping
        self._looked_at = -inf
        self._late: set[SupplierNo] = set()  # owed an answer for long when we last looked
        self._slow_until: dict[SupplierNo, float] = {}
        self._spare_hedges = HEDGES_MOST / 2
        self.speeds = Speeds(source.way_s)
        self.hedged_times = 0
        self.hedged_bytes = 0  # that may come and are not read

    def reachable(self) -> frozenset[SupplierNo]:
        """The suppliers that are connected and not silent."""
        return frozenset(s for s in self._source.online() if self._source.quiet_s(s) < SILENT_S)

    def quiet_s(self, block: BlockNo) -> float:
        """How long nothing has come for a block that suppliers are asked for; 0 while nobody is asked for it."""
        asks = self._asks.get(block)
        return min(self._source.quiet_s(ask.supplier) for ask in asks) if asks else 0.0

    def quiet(self) -> Mapping[BlockNo, float]:
        """`quiet_s` of every block that suppliers are asked or waited for; each of them is looked at once."""
        now = trio.current_time()
        suppliers = {ask.supplier for asks in self._asks.values() for ask in asks}
        quiet = {supplier: self._source.quiet_s(supplier) for supplier in suppliers}
        hoping = {block: now - since for block, since in self._hoping.items()}
        return hoping | {block: min(quiet[ask.supplier] for ask in asks) for block, asks in self._asks.items()}

    async def wait_until_asking(self) -> None:
        """Wait until a supplier is asked for something, or waited for."""
        await self._asking.wait()

    def look(self) -> None:
        """Give up asking those who keep us waiting while others would do."""
        now = trio.current_time()
        if now - self._looked_at < LOOK_PAUSE_S:
            return
        self._looked_at = now
        online = self._source.online()
        asks = [ask for asks in self._asks.values() for ask in asks]
        late_s = inf if self._source.is_held_back() else LATE_S  # then it is not they who are slow
        late = {ask for ask in asks if now - ask.since > max(late_s, LATE_TIMES * self.speeds.usual_s(ask.asked))}
        self._late = {ask.supplier for ask in late}
        answering: set[SupplierNo] | None = None  # counted when it matters, which is seldom
        for ask in asks:
            quiet_s = self._source.quiet_s(ask.supplier) if ask.supplier in online else 0.0
            if quiet_s >= SILENT_S:
                self._source.doubt(ask.supplier)
            if answering is None and (quiet_s >= ELSEWHERE_S or ask in late):
                answering = {supplier for supplier in online if self._answers(supplier)}
            if now - ask.since > ASK_MOST_S or (
                answering is not None
                and (quiet_s >= ELSEWHERE_S or ask in late)
                and len(answering - {ask.supplier}) >= ask.block.code.k
                and self.others_do(ask.supplier, ask.block)
            ):
                if ask in late:
                    self._slow_until[ask.supplier] = now + SLOW_FOR_S
                ask.scope.cancel()
                self._forget_ask(ask)
            elif late_s < inf and self._should_hedge(ask, now):
                self._hedge(ask)
        if not self._asks and not self._hoping:
            self._asking = trio.Event()

    @contextmanager
    def asked(
        self, supplier: SupplierNo, block: BlockRow, size_bytes: int, *, may_hedge: bool = False
    ) -> Iterator[Ask]:
        """Let `look` end what is asked here.

        Args:
            size_bytes: of the answer.
            may_hedge: others will be asked if this ends.
        """
        asked = self.speeds.begin(supplier, size_bytes)
        with trio.CancelScope() as scope:
            ask = Ask(supplier, block, asked.at, scope, asked, may_hedge)
            self._asks.setdefault(block.block, []).append(ask)
            self._asking.set()
            try:
                yield ask
                self.speeds.note(asked)
                if may_hedge:
                    self._spare_hedges = min(HEDGES_MOST, self._spare_hedges + HEDGE_SHARE)
            finally:
                self.speeds.end(asked)
                self._forget_ask(ask)

    @contextmanager
    def hoping(self, block: BlockNo) -> Iterator[None]:
        """Let it be known that the block is waited for, with nobody asked yet."""
        self._hoping.setdefault(block, trio.current_time())
        self._asking.set()
        try:
            yield
        finally:
            self._hoping.pop(block, None)

    def answered(self, supplier: SupplierNo) -> None:
        """Note that a supplier answered in time: it is not asked last any more."""
        self._slow_until.pop(supplier, None)

    def reconnected(self, supplier: SupplierNo) -> None:
        """Forget how slow a supplier was: requests take another connection, perhaps over another line."""
        self._slow_until.pop(supplier, None)
        self.speeds.forget(supplier)

    def is_best(self, supplier: SupplierNo) -> bool:
        """Say whether a supplier answers, and was not late lately."""
        return self._answers(supplier) and not self._is_slow(supplier)

    def others_do(self, supplier: SupplierNo, block: BlockRow) -> bool:
        """Say whether enough fragments of the block are with others who answer."""
        others = {
            index
            for index, holders in self._holders(block.block).items()
            if any(each != supplier and self._answers(each) for each in holders)
        }
        return len(others) >= block.code.k

    def expect_s(self, holders: Sequence[SupplierNo], size_bytes: int) -> float:
        """How long an answer would take from one of these; inf: they are asked last."""
        best = [self.speeds.expect_s(each, size_bytes) for each in holders if self.is_best(each)]
        return min(best, default=inf)

    def reluctance(self, holders: Sequence[SupplierNo]) -> int:
        """How late to ask for a fragment: first those who answer, last those who do not."""
        return min(2 * (not self._answers(each)) + self._is_slow(each) for each in holders)

    # -- private ---------------------------------------------------------------------------------------------

    def _should_hedge(self, ask: Ask, now: float) -> bool:
        if not ask.may_hedge or self._spare_hedges < 1.0 or now - ask.since <= HEDGE_S:
            return False
        others = sorted(
            min(self.speeds.expect_s(each, ask.asked.size_bytes) for each in quick)
            for holders in self._holders(ask.block.block).values()
            if (quick := [each for each in holders if self._is_quick(each, ask)])
        )
        need = ask.block.code.k
        if len(others) < need:
            return False
        return is_overdue(now - ask.since, self.speeds.usual_s(ask.asked), others[need - 1])

    def _is_quick(self, supplier: SupplierNo, ask: Ask) -> bool:
        is_other = supplier != ask.supplier and self.is_best(supplier)
        return is_other and self.speeds.is_known(supplier, ask.asked.size_bytes)

    def _hedge(self, ask: Ask) -> None:
        _log.debug("supplier %d is slower than expected; others are asked", ask.supplier)
        self._spare_hedges -= 1.0
        self.hedged_times += 1
        self.hedged_bytes += ask.asked.size_bytes
        self.speeds.note(ask.asked, came=False)
        ask.is_hedged = True
        ask.scope.cancel()
        self._forget_ask(ask)

    def _forget_ask(self, ask: Ask) -> None:
        asks = self._asks.get(ask.block.block, [])
        if ask in asks:
            asks.remove(ask)
            if not asks:
                del self._asks[ask.block.block]

    def _answers(self, supplier: SupplierNo) -> bool:
        return self._source.quiet_s(supplier) < ELSEWHERE_S and supplier not in self._late

    def _is_slow(self, supplier: SupplierNo) -> bool:
        return self._slow_until.get(supplier, 0.0) > trio.current_time()
