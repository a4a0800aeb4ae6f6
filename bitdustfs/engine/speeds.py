"""Speeds: how soon each supplier will probably have answered; core/speed has the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from bitdustfs.core.speed import LONG_BYTES, TELLING_BYTES, Speed, typical
from bitdustfs.model import SupplierNo


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Something that a supplier owes an answer to."""

    supplier: SupplierNo
    size_bytes: int  # of the answer
    at: float
    queue_bytes: int  # that the supplier owed then, with this answer
    expected_s: float | None  # by what was known of it then; None: nothing was
    is_again: bool = False  # it was slow, and this shows whether it still is

    @property
    def is_long(self) -> bool:
        """Say whether it takes the line, and shows how fast that is."""
        return self.size_bytes >= LONG_BYTES


class Speeds:
    """Of all suppliers.

    Args:
        way_s: there and back to a supplier, at least.
    """

    def __init__(self, way_s: Callable[[SupplierNo], float]) -> None:
        self._way_s = way_s
        self._speeds: dict[SupplierNo, Speed] = {}
        self._under_way: dict[SupplierNo, dict[Asked, None]] = {}  # in the order in which they were asked

    def begin(self, supplier: SupplierNo, size_bytes: int) -> Asked:
        """A supplier is asked now."""
        speed = self._of(supplier)
        hoped = self._hoped(supplier, size_bytes)
        speed.ask(size_bytes)
        known = speed.s_per_byte(trio.current_time()) if size_bytes >= LONG_BYTES else speed.short_s()
        if is_again := hoped is not None:
            known = hoped
        asked = Asked(
            supplier,
            size_bytes,
            trio.current_time(),
            speed.owed_bytes,
            None if known is None else self._took_s(supplier, size_bytes, speed.owed_bytes, known),
            is_again,
        )
        self._under_way.setdefault(supplier, {})[asked] = None
        return asked

    def plan(self, holders: Sequence[SupplierNo], size_bytes: int) -> None:
        """The first of them will be asked for so much in a moment; or, if it is negative, was to be and is now."""
        if holders:
            self._of(holders[0]).owed_bytes += size_bytes

    def end(self, asked: Asked) -> None:
        """It is not owed any more, for whatever reason."""
        if self._under_way[asked.supplier].pop(asked, asked) is None:
            self._of(asked.supplier).forgo(asked.size_bytes)

    def note(self, asked: Asked, *, came: bool = True) -> None:
        """The answer came, or took too long."""
        self._of(asked.supplier).note(
            asked.at,
            asked.size_bytes,
            now=trio.current_time(),
            way_s=self._way_s(asked.supplier),
            came=came,
            is_again=asked.is_again,
        )

    def forget(self, supplier: SupplierNo) -> None:
        """Forget what it has shown; what it owes stays."""
        self._of(supplier).forget()

    def expect_s(self, supplier: SupplierNo, size_bytes: int) -> float:
        """How long a supplier would take for an answer if it were asked now."""
        queue_bytes = self._of(supplier).owed_bytes + size_bytes
        return self._took_s(supplier, size_bytes, queue_bytes, self._known(supplier, size_bytes))

    def is_known(self, supplier: SupplierNo, size_bytes: int) -> bool:
        """Whether a supplier has shown what an answer of such a size takes it."""
        return self._shown(supplier, size_bytes) is not None

    def typical_s(self, size_bytes: int) -> float:
        """How long an answer takes those that have shown it, without queue and way; 0: nobody has."""
        return size_bytes * (typical(self._shown(each, size_bytes) for each in self._speeds) or 0.0)

    def usual_s(self, asked: Asked) -> float:
        """How long an answer would have taken by what was known of its supplier, else by how long others take."""
        if asked.expected_s is not None:
            return asked.expected_s
        known = self._others(asked.supplier, asked.size_bytes)
        return self._took_s(asked.supplier, asked.size_bytes, asked.queue_bytes, known)

    # -- private ---------------------------------------------------------------------------------------------

    def _of(self, supplier: SupplierNo) -> Speed:
        speed = self._speeds.get(supplier)
        if speed is None:
            speed = self._speeds[supplier] = Speed()
        return speed

    def _took_s(self, supplier: SupplierNo, size_bytes: int, queue_bytes: int, known: float | None) -> float:
        way_s = self._way_s(supplier)
        if size_bytes < LONG_BYTES:
            return way_s if known is None else known
        return way_s + queue_bytes * (known or 0.0)

    def _known(self, supplier: SupplierNo, size_bytes: int) -> float | None:
        if (hoped := self._hoped(supplier, size_bytes)) is not None:
            return hoped
        known = self._shown(supplier, size_bytes)
        return self._others(supplier, size_bytes) if known is None else known

    def _hoped(self, supplier: SupplierNo, size_bytes: int) -> float | None:
        """What others take, for one that was slower and owes nothing: one answer may show that it is not any more."""
        speed = self._of(supplier)
        if size_bytes < TELLING_BYTES or speed.owed_bytes or not speed.is_due(trio.current_time()):
            return None
        known, others = self._shown(supplier, size_bytes), self._others(supplier, size_bytes)
        return others if known is not None and others is not None and others < known else None

    def _others(self, supplier: SupplierNo, size_bytes: int) -> float | None:
        return typical(self._shown(each, size_bytes) for each in self._speeds if each != supplier)

    def _shown(self, supplier: SupplierNo, size_bytes: int) -> float | None:
        """Seconds for a byte, or for a short answer: as it was lately, and not less than what is waited for shows."""
        speed, now = self._of(supplier), trio.current_time()
        is_long = size_bytes >= LONG_BYTES
        known = speed.s_per_byte(now) if is_long else speed.short_s()
        if known is None:
            return None  # what is waited for alone says only what it takes at least
        oldest = next((each for each in self._under_way.get(supplier, ()) if each.is_long is is_long), None)
        if oldest is None:
            return known
        if not is_long:
            return max(known, now - oldest.at)
        owed_bytes = sum(each.size_bytes for each in self._under_way[supplier])  # who knows which comes first
        return max(known, speed.waited_s(oldest.at, now=now, way_s=self._way_s(supplier)) / owed_bytes)
