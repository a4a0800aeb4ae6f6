"""Tracks: what was seen of each supplier, kept over restarts, and the score that follows from it (core/score)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitdustfs.core import score
from bitdustfs.engine.journal import Journal
from bitdustfs.model import SupplierNo, Track
from bitdustfs.ports import Catalog

NOTE_S: Final = 3600.0  # (tune) seconds of looking between two notes: a crash may forget an hour of thirty days


class Tracks:
    """The track of every supplier."""

    def __init__(self, catalog: Catalog, journal: Journal) -> None:
        self._catalog = catalog
        self._journal = journal
        self._tracks: dict[SupplierNo, Track] = {}
        self._unnoted_s = 0.0

    def remember(self) -> None:
        """Take up what was kept."""
        self._tracks = {each.supplier: each for each in self._catalog.tracks()} | self._tracks

    def of(self, supplier: SupplierNo) -> Track:
        """What is known of a supplier."""
        return self._tracks.get(supplier) or Track(supplier)

    def score(self, supplier: SupplierNo) -> int:
        """How good a supplier is, 0 … core.score.FULL."""
        return score.score(self.of(supplier))

    def watch(
        self, answering: Mapping[SupplierNo, bool], speeds: Mapping[SupplierNo, float], elapsed_s: float
    ) -> None:
        """Note what was seen in so many seconds, and keep it from time to time.

        Args:
            answering: whether each supplier of which that can be said answered.
            speeds: bytes a second, the best seen since the last time.
        """
        for supplier, answers in answering.items():
            self._tracks[supplier] = score.watched(self.of(supplier), elapsed_s, answers=answers)
        for supplier, bytes_per_s in speeds.items():
            self._tracks[supplier] = score.moved(self.of(supplier), bytes_per_s)
        self._unnoted_s += elapsed_s
        if self._unnoted_s >= NOTE_S:
            self._note()

    def audited(self, supplier: SupplierNo, *, proven: int, wrong: int) -> None:
        """Note how audits ended; at once where one was wrong."""
        self._tracks[supplier] = score.audited(self.of(supplier), proven=proven, wrong=wrong)
        if wrong:
            self._note()

    def _note(self) -> None:
        with self._journal.operation():
            for track in self._tracks.values():
                self._catalog.put_track(track)
        self._unnoted_s = 0.0
