"""The register: what the catalog says of each supplier follows what was agreed with its owner, and where it answers.

    another contract -> room and contract of the row
    the end is near (core/ending), and others can take what it holds, or it takes nothing new any more -> LEAVING
    it may erase what it has -> MISSING: that does not count any more, also while it answers
    the contract goes on after all -> HIRED
    another node of the same owner keeps the shelf now -> that one is hired, and the one before leaves

Dates are those of the wall clock. After a jump of it nothing is done by a date for a while (engine/settling), so that
a clock which is wrong for a while moves no data. But nothing is called safe for which only that wait speaks
(`is_unsure`).

While nothing can be changed, all of this waits, where suppliers answer too: it is found out anew, or kept here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, Protocol

import trio

from bitdustfs.core import contract, ending
from bitdustfs.core.agreement import party_of
from bitdustfs.core.contract import Contract
from bitdustfs.core.ending import Ending
from bitdustfs.core.standing import Event
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.drainer import Drainer
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.monitor import Monitor
from bitdustfs.engine.settling import Settling
from bitdustfs.errors import BadFormat, BitdustError
from bitdustfs.model import FragmentState, NodeId, OwnerId, Rule, Standing, Supplier, SupplierNo, short
from bitdustfs.ports import Catalog, Wall

LOOK_EVERY_S: Final = 60.0  # dates pass slowly; what is agreed on wakes us
MAX_MACHINES: Final = 8  # (tune) of one owner: a friend whose machines burn more often is hired by hand
_BEGUN = "leaving_by_contract"  # in the catalog, local: 8 bytes for each supplier that leaves as its contract ends
_log = logging.getLogger(__name__)


class Relations(Protocol):
    """What is needed of the suppliers."""

    clerk: Clerk

    def binding(self, owner: OwnerId) -> Sequence[Contract]: ...

    def online(self) -> Sequence[SupplierNo]: ...

    def add(self, row: Supplier) -> None: ...


class Register:
    """Keeps the rows of suppliers true.

    Attributes:
        settling: whether dates can be gone by.
        address_of: where a node was last seen; "": nobody knows.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        suppliers: Relations,
        monitor: Monitor,
        drainer: Drainer,
        wall: Wall,
        look_s: float = LOOK_EVERY_S,
    ) -> None:
        self._look_s = look_s
        self._catalog = catalog
        self._journal = journal
        self._suppliers = suppliers
        self._monitor = monitor
        self._drainer = drainer
        self._wall = wall
        self._ends: dict[SupplierNo, Ending] | None = None  # None: nobody has asked yet
        self._yielding: set[SupplierNo] = set()  # who may erase what it has, by a clock that can be believed
        self._addresses: dict[SupplierNo, str] = {}  # not noted yet
        self._told: set[OwnerId] = set()  # who has had so many machines that the next is not hired
        self._woken = trio.Event()
        self.settling = Settling(catalog, journal, wall)
        self.address_of: Callable[[NodeId], str] = lambda _node: ""

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            self._woken = trio.Event()
            self.look()
            with trio.move_on_after(self._look_s):
                await self._woken.wait()

    def nudge(self) -> None:
        """Something was agreed on: look soon."""
        self._woken.set()

    def answers_at(self, supplier: SupplierNo, address: str) -> None:
        """A supplier is there now: whoever recovers this volume must find it."""
        self._addresses[supplier] = address
        self._guarded(self._note_addresses)

    def look(self) -> None:
        """Bring every row up to date, if anything may be changed. Does not wait."""
        self._find_ends()
        self._guarded(self.settling.note)
        self._guarded(self._note_addresses)
        for number in [row.supplier for row in self._catalog.suppliers()]:
            self._guarded(lambda number=number: self._follow(self._row(number)))  # type: ignore[misc]

    # -- what others ask ---------------------------------------------------------------------------------------

    @property
    def ends(self) -> Mapping[SupplierNo, Ending]:
        """The known ends of contracts, by supplier."""
        return self._find_ends() if self._ends is None else self._ends

    @property
    def is_unsure(self) -> bool:
        """Something counts as held that its supplier may have erased by now."""
        now_s = self.now_s()
        late = {number for number, end in self.ends.items() if end.may_yield(now_s)}
        return bool(late) and any(
            row.supplier in late and self._catalog.fragments_at(row.supplier, FragmentState.HELD, 1)
            for row in self._catalog.suppliers()
        )

    def now_s(self) -> int:
        """Wall time."""
        return self._wall.now_ns() // 1_000_000_000

    def counts(self, supplier: SupplierNo) -> bool:
        """Say whether what a supplier has may count as held.

        What did not count goes on not to, also while the clock that says so is not believed yet.
        """
        end = self.ends.get(supplier)
        is_late = end is not None and end.may_yield(self.now_s())
        return not self.may_erase(supplier) and not (is_late and self._row(supplier).is_lost)

    def may_erase(self, supplier: SupplierNo) -> bool:
        """Say whether a supplier owes us nothing any more, by a clock that can be believed."""
        if self._ends is None:
            self._find_ends()
        return supplier in self._yielding

    def is_new_worth(self, supplier: SupplierNo) -> bool:
        """Say whether a supplier is worth hiring: its contract does not end soon."""
        end = self.ends.get(supplier)
        return end is None or not end.is_near(self.now_s())

    def by_person(self, supplier: SupplierNo) -> None:
        """The person decided about a supplier: it does not stay because its contract goes on."""
        if self._journal.refusal is None:
            self._note_begun(self._begun() - {supplier})

    # -- one supplier ------------------------------------------------------------------------------------------

    def _follow(self, row: Supplier) -> None:
        contracts = self._contracts(row)
        if not contracts:
            return
        self._take_terms(row, contracts)
        self._hire_heir(row, contracts)
        row, end, now_s = self._row(row.supplier), self.ends.get(row.supplier), self.now_s()
        if end is None or not end.is_near(now_s):
            self._goes_on(row)
        elif self.settling.is_over:
            self._nears_end(row, end, now_s)

    def _goes_on(self, row: Supplier) -> None:
        if row.supplier not in self._begun():
            return
        if row.standing in (Standing.LEAVING, Standing.MISSING, Standing.FIRED):
            self._monitor.meets(row, Event.HIRE, Rule.RENEWAL)
            _log.warning("the contract with supplier %s goes on, so it stays", row.label)
        self._note_begun(self._begun() - {row.supplier})

    def _nears_end(self, row: Supplier, end: Ending, now_s: int) -> None:
        if row.standing is Standing.HIRED and (end.is_past(now_s) or not self._drainer.why_not(row)):
            self._note_begun(self._begun() | {row.supplier})
            self._monitor.meets(row, Event.LEAVE, Rule.END)
            _log.warning("the contract with supplier %s ends: what it holds is brought to others", row.label)
        elif row.standing is Standing.LEAVING and (end.may_yield(now_s) or self._is_burnt(row)):
            self._monitor.meets(row, Event.PATIENCE_ENDS, Rule.YIELD)
            _log.warning("supplier %s may erase what it has, or is gone: that does not count any more", row.label)
        elif row.standing is Standing.LOST and (
            self._is_burnt(row) or (end.may_yield(now_s) and not self._has_any(row))
        ):
            self._monitor.meets(row, Event.FIRE, Rule.YIELD)
        elif row.standing is Standing.MISSING and end.is_past(now_s) and not self._has_any(row):
            self._monitor.meets(row, Event.FIRE, Rule.EMPTY)

    def _is_burnt(self, row: Supplier) -> bool:
        """Its owner has put another node in its place, and it does not answer."""
        party = ending.shelf_for(self._contracts(row), self._own)
        is_replaced = party is not None and party.shelf != row.node
        return is_replaced and row.supplier not in self._suppliers.online() and self._monitor.is_away(row.supplier)

    def _has_any(self, row: Supplier) -> bool:
        states = (FragmentState.HELD, FragmentState.ABSENT)
        return any(self._catalog.fragments_at(row.supplier, state, 1) for state in states)

    def _take_terms(self, row: Supplier, contracts: Sequence[Contract]) -> None:
        """Let a row say what holds now, if it is given anything there."""
        now_s = self.now_s()
        held = [each for each in contracts if each.is_signed_by_both and each.terms.since_s <= now_s]
        if not held or held[-1].raw == row.contract or held[-1].terms.serial < _serial(row.contract):
            return
        gives = party_of(held[-1], row.owner)
        if gives.shelf != row.node:
            return
        self._put(
            replace(
                row,
                contract=held[-1].raw,
                capacity_bytes=gives.gives_bytes,
                capacity_fragments=gives.gives_fragments,
            )
        )

    def _hire_heir(self, row: Supplier, contracts: Sequence[Contract]) -> None:
        """Hire the node that keeps the shelf now in the place of another one of the same owner."""
        party = ending.shelf_for(contracts, self._own)
        newest = contracts[-1]
        if party is None or party.shelf == row.node or not newest.is_signed_by_both:
            return
        rows = self._catalog.suppliers()
        if any(each.node == party.shelf for each in rows) or newest.terms.since_s > self.now_s():
            return
        if row.standing is Standing.FIRED and row.supplier not in self._begun():
            return  # the person gave it up
        if not self._may_replace(row, [each for each in rows if each.owner == row.owner]):
            return
        with self._journal.operation():
            taken = {each.label for each in rows}
            names = (f"{row.label}-old{tail or ''}" for tail in range(len(rows) + 1))
            old = next(name for name in names if name not in taken)
            self._put(replace(row, label=old))
            heir = Supplier(
                supplier=SupplierNo(0),
                node=party.shelf,
                owner=row.owner,
                label=row.label,
                address=self.address_of(party.shelf),
                contract=newest.raw,
                capacity_bytes=party.gives_bytes,
                capacity_fragments=party.gives_fragments,
                used_bytes=0,
                used_fragments=0,
                standing=Standing.CANDIDATE if row.standing is Standing.CANDIDATE else Standing.HIRED,
            )
            self._catalog.put_supplier(heir)
        made = next(each for each in self._catalog.suppliers() if each.node == party.shelf)
        self._suppliers.add(made)
        _log.warning(
            "node %s keeps the shelf of %s now, in the place of node %s, and is hired",
            short(made.node),
            made.label,
            short(row.node),
        )

    def _may_replace(self, row: Supplier, machines: Sequence[Supplier]) -> bool:
        """Say whether its owner may bring another machine: each of them counts in the quorum of heads, until it was
        left, and has a row for ever. So nobody gets more say by coming with one machine after the other."""
        if sum(each.is_listed for each in machines) > 1:
            return False  # the one before is being left still
        if len(machines) < MAX_MACHINES:
            return True
        if row.owner not in self._told:
            self._told.add(row.owner)
            _log.warning(
                "the owner of supplier %s has had %d machines: hire the next one by hand", row.label, MAX_MACHINES
            )
        return False

    # -- private -----------------------------------------------------------------------------------------------

    @property
    def _own(self) -> OwnerId:
        return self._suppliers.clerk.identity.owner

    def _ending(self, row: Supplier) -> Ending | None:
        contracts = self._contracts(row)
        return ending.ending(contracts, self._own, row.node) if contracts else None

    def _contracts(self, row: Supplier) -> Sequence[Contract]:
        """What is agreed with its owner, as far as it is known: the clerk's, or that of the row."""
        kept, known = _parsed(row.contract), self._suppliers.binding(row.owner)
        if not known or (kept is not None and kept.terms.serial > known[-1].terms.serial):
            return [kept] if kept is not None else []
        return known

    def _row(self, supplier: SupplierNo) -> Supplier:
        return next(row for row in self._catalog.suppliers() if row.supplier == supplier)

    def _put(self, row: Supplier) -> None:
        with self._journal.operation():
            self._catalog.put_supplier(row)
        self._suppliers.add(row)

    def _note_addresses(self) -> None:
        while self._addresses:
            supplier, address = next(iter(self._addresses.items()))
            row = next((row for row in self._catalog.suppliers() if row.supplier == supplier), None)
            if row is not None and row.address != address:
                with self._journal.operation():
                    self._catalog.put_supplier(replace(row, address=address))
            del self._addresses[supplier]

    def _begun(self) -> frozenset[SupplierNo]:
        raw = self._catalog.local_value(_BEGUN) or b""
        return frozenset(SupplierNo(int.from_bytes(raw[at : at + 8], "big")) for at in range(0, len(raw), 8))

    def _note_begun(self, begun: frozenset[SupplierNo]) -> None:
        if begun != self._begun():
            with self._journal.operation():
                self._catalog.put_local_value(_BEGUN, b"".join(each.to_bytes(8, "big") for each in sorted(begun)))

    def _guarded(self, change: Callable[[], None]) -> None:
        """Change something, if anything may be changed now; else it waits for the next look."""
        if self._journal.refusal is not None:
            return
        try:
            change()
        except BitdustError as error:
            _log.info("the rows of suppliers are brought up to date later: %s", error)

    def _find_ends(self) -> Mapping[SupplierNo, Ending]:
        """Read anew when contracts end, and who may erase by a clock that can be believed. Changes no row."""
        self.settling.look()
        ends = {row.supplier: self._ending(row) for row in self._catalog.suppliers()}
        self._ends = {number: end for number, end in ends.items() if end is not None}
        if self.settling.is_over:
            now_s = self.now_s()
            self._yielding = {number for number, end in self._ends.items() if end.may_yield(now_s)}
        return self._ends


@lru_cache(maxsize=256)
def _parsed(raw: bytes) -> Contract | None:
    try:
        return contract.parse(raw)
    except BadFormat:
        return None


def _serial(raw: bytes) -> int:
    kept = _parsed(raw)
    return kept.terms.serial if kept is not None else 0
