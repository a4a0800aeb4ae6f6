"""Holding: this node holds its volume at the suppliers as long as it writes it (core/lease).

    each supplier that is online <- HOLD, which waits -> the answer: a wish, or a minute has passed -> HOLD again …
    a quorum lets us hold it -> heads may be published
    a quorum cannot any more, because others hold it -> nothing is changed here from then on

Nothing is asked of suppliers while fewer than a quorum are online: what we could not write, we keep from nobody.
For the time that a holder hears of no quorum he does not hold the volume, and goes on writing into his own spool as
anybody does who is on the train; when he is back, suppliers tell him whether somebody wrote meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from typing import Final, Protocol

import trio

from bitdustfs.core import lease as leases
from bitdustfs.core import wire
from bitdustfs.core.lease import LEASE_S
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.heads import WAIT_S
from bitdustfs.engine.journal import Journal
from bitdustfs.errors import BitdustError
from bitdustfs.model import NodeId, SupplierNo, short
from bitdustfs.ports import Wall

AGAIN_S: Final = 5.0  # (tune) after an answer that does not let us hold it, or tells a wish that is known, or none
ANSWER_S: Final = WAIT_S + 30.0  # for an answer
LET_GO_S: Final = 3.0  # (tune) for suppliers to hear at the end that we let the volume go
_LOOK_EVERY_S = 0.5
_TELL = 2  # suppliers that tell a wish are believed, whoever they are
_log = logging.getLogger(__name__)


class LeaseKeepers(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def hold(self, supplier: SupplierNo, request: wire.Hold) -> wire.Holds: ...


class Holding:
    """Hold the volume, and know whether we do.

    Args:
        is_quorum: whether heads count that these suppliers have.
        is_quorum_without: whether heads could count that none of these suppliers have.
        node: of this machine. What a copy of this home wishes, which has the same, is not heard.
        seat: of the home, 16 bytes.
        lease_s: that is asked for.
        takes_over: whoever holds it.
    """

    def __init__(
        self,
        journal: Journal,
        keepers: LeaseKeepers,
        wall: Wall,
        *,
        is_quorum: Callable[[Set[SupplierNo]], bool],
        is_quorum_without: Callable[[Set[SupplierNo]], bool],
        node: NodeId,
        seat: bytes,
        lease_s: int = LEASE_S,
        takes_over: bool = False,
    ) -> None:
        self._journal = journal
        self._keepers = keepers
        self._wall = wall
        self._is_quorum = is_quorum
        self._is_quorum_without = is_quorum_without
        self._node = node
        self._seat = seat
        self._lease_s = lease_s
        self._takes_over = takes_over
        self._taken: set[SupplierNo] = set()  # let us take it over; from who comes later we do not
        self._until_s: dict[SupplierNo, float] = {}  # that we count on each supplier, by CLOCK_BOOTTIME
        self._others: dict[SupplierNo, NodeId] = {}  # who holds it there
        self._wishes: dict[SupplierNo, NodeId] = {}
        self._asked_at: dict[SupplierNo, float] = {}  # trio time
        self._busy: set[SupplierNo] = set()
        self._waits: dict[SupplierNo, trio.CancelScope] = {}  # of who does not answer before there is news
        self._looks = Looks(journal.bell, _LOOK_EVERY_S)
        self._was_held = False
        self.has_let_go = False
        self.has_held = False  # at some time
        self.on_held: Callable[[], None] = lambda: None  # and it was not before
        # a supplier lets us hold it, and no head of others follows there from now on; until now one may have
        self.on_let: Callable[[SupplierNo], None] = lambda _supplier: None
        self.on_lost: Callable[[NodeId], None] = lambda _node: None  # others hold the volume at a quorum
        self.on_wish: Callable[[NodeId], None] = lambda _node: None  # another node wishes that we let it go

    @property
    def is_held(self) -> bool:
        """So many suppliers let us hold the volume that nobody else's heads can count."""
        now_s = self._wall.awake_s()
        return self._is_quorum({each for each, until_s in self._until_s.items() if now_s < until_s})

    @property
    def wished_by(self) -> NodeId | None:
        """The node that wishes to write, by two suppliers, or by one if our heads could not count without that one.

        One may lie: it could make every writer let go, for nobody. Who wishes may know few of ours: hired since.
        """
        if not self._wishes:
            return None
        node = leases.most_named(self._wishes.values())
        told = {supplier for supplier, each in self._wishes.items() if each == node}
        return None if len(told) < _TELL and self._is_quorum_without(told) else node

    @property
    def holder(self) -> NodeId | None:
        """Another node that holds the volume somewhere; None: nobody that we know of."""
        return leases.most_named(self._others.values()) if self._others else None

    async def run(self) -> None:
        """Hold it until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                online = frozenset(self._keepers.online())
                for known in (self._until_s, self._others, self._wishes, self._asked_at):
                    for gone in known.keys() - online:
                        if known is not self._until_s:  # it may still count, and be back soon
                            del known[gone]
                if self._may_ask():
                    for supplier in filter(self._is_due, online - self._busy):
                        self._busy.add(supplier)
                        nursery.start_soon(self._ask, supplier)
                self._note()
                now = trio.current_time()
                asked = [at for supplier, at in self._asked_at.items() if supplier not in self._busy]
                again_s = min((at + AGAIN_S - now for at in asked), default=WAIT_S)
                await self._looks.next(within_s=max(_LOOK_EVERY_S, min(again_s, self._ends_in_s())))

    async def let_go(self) -> None:
        """Tell all that are online that we do not hold the volume any more; never raises."""
        self.has_let_go = True
        self._until_s.clear()
        with trio.CancelScope(deadline=trio.current_time() + LET_GO_S, shield=True):
            async with trio.open_nursery() as nursery:
                for supplier in self._keepers.online():
                    nursery.start_soon(self._let_go_at, supplier)

    # -- private ---------------------------------------------------------------------------------------------

    def _may_ask(self) -> bool:
        return not self.has_let_go and self._is_quorum(set(self._keepers.online()))

    def _is_due(self, supplier: SupplierNo) -> bool:
        asked_at = self._asked_at.get(supplier)
        return asked_at is None or trio.current_time() - asked_at >= AGAIN_S

    def _ends_in_s(self) -> float:
        """Until the first supplier is not counted on any more, or WAIT_S."""
        now_s = self._wall.awake_s()
        return min((until_s - now_s for until_s in self._until_s.values() if until_s > now_s), default=WAIT_S)

    async def _ask(self, supplier: SupplierNo) -> None:
        try:
            told = await self._say(supplier, waits=False)
            while told.is_yours and not told.wished_by and self._may_ask():
                soonest = trio.current_time() + AGAIN_S  # also if a supplier does not wait
                with trio.CancelScope() as self._waits[supplier]:
                    told = await self._say(supplier, waits=True)
                    await trio.sleep_until(soonest)
                if self._waits.pop(supplier).cancelled_caught:
                    told = await self._say(supplier, waits=False)
        except (BitdustError, trio.TooSlowError) as error:
            _log.debug("supplier %d did not say who holds the volume: %s", supplier, error or "no answer in time")
            self._others.pop(supplier, None)
            self._wishes.pop(supplier, None)
        finally:
            self._asked_at[supplier] = trio.current_time()
            self._waits.pop(supplier, None)
            self._busy.discard(supplier)
            self._looks.now()

    async def _say(self, supplier: SupplierNo, *, waits: bool) -> wire.Holds:
        """Ask for another lease, and note what is said."""
        sent_s = self._wall.awake_s()
        takes_over = self._takes_over and supplier not in self._taken
        request = wire.Hold(self._seat, self._lease_s, takes_over, wishes=False, waits=waits)
        with trio.fail_after(ANSWER_S):
            told = await self._keepers.hold(supplier, request)
        if self.has_let_go:
            return told
        if told.is_yours:
            was_ours = sent_s < self._until_s.get(supplier, 0.0)
            self._until_s[supplier] = leases.counts_until_s(sent_s, self._lease_s)
            self._others.pop(supplier, None)
            self._taken.add(supplier)
            if not was_ours:
                self.on_let(supplier)
        else:
            self._until_s.pop(supplier, None)
            if not takes_over:  # else it lies: whoever takes over is let
                self._others[supplier] = NodeId(told.node)
        if told.wished_by and told.wished_by != self._node and told.is_yours:
            self._wishes[supplier] = NodeId(told.wished_by)
        else:
            self._wishes.pop(supplier, None)
        self._note()
        return told

    async def _let_go_at(self, supplier: SupplierNo) -> None:
        try:
            await self._keepers.hold(supplier, wire.Hold(self._seat, 0, False, wishes=False, waits=False))
        except BitdustError as error:
            _log.debug("supplier %d was not told that the volume is let go: %s", supplier, error)

    def _note(self) -> None:
        """Tell of what has changed."""
        if self.has_let_go:
            return
        is_held = self.is_held
        if is_held != self._was_held:
            self._was_held = is_held
            self.has_held = self.has_held or is_held
            _log.info("this machine %s the volume", "holds" if is_held else "does not hold")
            self._journal.bell.ring()
            if is_held:
                self.on_held()
            else:  # the machine slept: what was asked before counts from before
                for wait in self._waits.values():
                    wait.cancel()
        if (wished_by := self.wished_by) is not None and is_held:
            self.on_wish(wished_by)
        if self._others and not is_held and not self._is_quorum_without(self._others.keys()):  # a few may lie
            holder = leases.most_named(self._others.values())
            _log.warning("node %s holds the volume", short(holder))
            self.on_lost(holder)
