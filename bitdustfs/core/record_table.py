"""The records that a node keeps for others: only valid ones, only the newest of each id, and never too many.

There is room for `most` records, and for `most_per_source` of those that came from one network. When it is full, the
network that has most here gives up the one that was stored longest ago. So a flood from one side pushes out its own.
Those of our partners are pinned: they stay, whoever brings others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bitdustfs.core.record import Record, newer
from bitdustfs.model import RecordId


@dataclass(frozen=True, slots=True)
class _Kept:
    record: Record
    source: str  # the network that it came from; empty: ourselves
    stored_s: int


class RecordTable:
    """Records by id. At most `most`, and pinned ones."""

    def __init__(self, *, most: int = 2048, most_per_source: int = 128, most_pinned: int = 512) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._most_pinned = most_pinned
        self._kept: dict[RecordId, _Kept] = {}
        self._sources: dict[str, OrderedDict[RecordId, None]] = {}  # those that are not pinned, oldest first
        self._pinned: frozenset[RecordId] = frozenset()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Record]:
        return iter([kept.record for kept in self._kept.values()])

    def pin(self, ids: Iterable[RecordId]) -> None:
        """Say which records stay whoever brings others. What is not named any more is as any other."""
        pinned = frozenset(list(ids)[: self._most_pinned])
        for record_id in self._pinned ^ pinned:
            kept = self._kept.get(record_id)
            if kept is not None and record_id in pinned:
                self._leave_source(record_id, kept.source)
            elif kept is not None:
                self._sources.setdefault(kept.source, OrderedDict())[record_id] = None
        self._pinned = pinned

    def put(self, record: Record, source: str, now_s: int) -> bool:
        """Keep a record. False: it is not valid, or a newer one is here.

        Args:
            source: the network that it came from; newer ones count for the one that brought the first with this id.
        """
        record_id = record.id
        before = self._kept.get(record_id)
        if not record.is_valid(now_s):
            return False
        if before is None:
            if record_id not in self._pinned:
                self._make_room(source)
        elif newer(before.record, record, now_s=now_s) is not record and before.record.raw != record.raw:
            return False
        else:
            source = before.source
        self._kept[record_id] = _Kept(record, source, now_s)
        if record_id not in self._pinned:
            of_source = self._sources.setdefault(source, OrderedDict())
            of_source[record_id] = None
            of_source.move_to_end(record_id)
        return True

    def get(self, record_id: RecordId, now_s: int) -> Record | None:
        """The record that lies here, if it is valid."""
        kept = self._kept.get(record_id)
        if kept is None:
            return None
        if not kept.record.is_valid(now_s):
            self._forget(record_id)
            return None
        return kept.record

    def stored_before(self, when_s: int) -> list[Record]:
        """Those that nobody brought since then, pinned ones first."""
        due = [each for each in self._kept.values() if each.stored_s < when_s]
        return [each.record for each in sorted(due, key=lambda each: each.record.id not in self._pinned)]

    def touch(self, record_id: RecordId, now_s: int) -> None:
        """Note that it was handed on."""
        kept = self._kept.get(record_id)
        if kept is not None:
            self._kept[record_id] = _Kept(kept.record, kept.source, now_s)

    def sweep(self, now_s: int) -> None:
        """Forget what is not valid any more."""
        for record_id in [each for each, kept in self._kept.items() if not kept.record.is_valid(now_s)]:
            self._forget(record_id)

    def _make_room(self, source: str) -> None:
        """Let some go, if they must. The network that brings one must not have more than the others."""
        own = self._sources.get(source, OrderedDict())
        while len(own) >= self._most_per_source:  # more than one when those that were pinned are not any more
            self._forget(next(iter(own)))
        while sum(map(len, self._sources.values())) >= self._most:
            largest = max(self._sources.values(), key=len)
            if len(largest) <= len(own):
                largest = own
            self._forget(next(iter(largest)))

    def _forget(self, record_id: RecordId) -> None:
        self._leave_source(record_id, self._kept.pop(record_id).source)

    def _leave_source(self, record_id: RecordId, source: str) -> None:
        of_source = self._sources.get(source)
        if of_source is None:
            return
        of_source.pop(record_id, None)
        if not of_source:
            del self._sources[source]
