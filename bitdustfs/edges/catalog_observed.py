"""The catalog's local tables about suppliers: what this machine saw of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import Absence, AuditTally, Observation, Rule, SupplierNo, Track, Verdict

_OBSERVATIONS = "SELECT supplier, away_ms, since_ns FROM l_observation ORDER BY supplier"
_PUT_OBSERVATION = """
    INSERT INTO l_observation (supplier, away_ms, since_ns) VALUES (?, ?, ?)
    ON CONFLICT (supplier) DO UPDATE SET away_ms = excluded.away_ms, since_ns = excluded.since_ns
"""
_ABSENCES = "SELECT ended_ns, away_ms FROM l_absence WHERE supplier = ? ORDER BY ended_ns"
_PUT_ABSENCE = """
    INSERT INTO l_absence (supplier, ended_ns, away_ms) VALUES (?, ?, ?)
    ON CONFLICT (supplier, ended_ns) DO UPDATE SET away_ms = max(away_ms, excluded.away_ms)
"""
_FORGET_ABSENCES = "DELETE FROM l_absence WHERE supplier = ? AND (ended_ns < ? OR ended_ns > ?)"
_AUDITS = "SELECT supplier, proven, wrong, last_ns FROM l_audit"
_PUT_AUDITS = """
    INSERT INTO l_audit (supplier, proven, wrong, last_ns) VALUES (?, ?, ?, ?) ON CONFLICT (supplier) DO UPDATE SET
    proven = excluded.proven, wrong = excluded.wrong, last_ns = excluded.last_ns
"""
_TRACKS = "SELECT supplier, present_s, absent_s, proven, wrong, bytes_per_s FROM l_track ORDER BY supplier"
_PUT_TRACK = "INSERT OR REPLACE INTO l_track VALUES (?, ?, ?, ?, ?, ?)"
_VERDICT_COLUMNS = "supplier, rule, at_ns, away_ms, wait_ms, longest_ms, spare, missing, instead, fragments, bytes"
_VERDICTS = f"SELECT {_VERDICT_COLUMNS} FROM l_verdict ORDER BY no"
_NOTE_VERDICT = f"INSERT INTO l_verdict ({_VERDICT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET_VERDICTS = "DELETE FROM l_verdict WHERE no <= (SELECT max(no) FROM l_verdict) - ?"
VERDICTS = 1000  # kept: at ten a day, more than three months
_MS = 1000
_DAY_NS = 24 * 3600 * 10**9


class ObservedTables(Store):
    """Observations, absences, audits and tracks of suppliers."""

    def observations(self) -> Sequence[Observation]:
        """What was seen of suppliers; those that were never seen to come or go are left out."""
        return [
            Observation(number, away_ms / _MS, since_ns) for number, away_ms, since_ns in self._rows(_OBSERVATIONS)
        ]

    def put_observation(self, seen: Observation) -> None:
        """Insert or replace."""
        self._change(_PUT_OBSERVATION, (seen.supplier, round(seen.away_s * _MS), seen.since_ns))

    def absences(self, supplier: SupplierNo) -> Sequence[Absence]:
        """The absences of a supplier that ended, oldest first."""
        return [Absence(ended_ns, away_ms / _MS) for ended_ns, away_ms in self._rows(_ABSENCES, (supplier,))]

    def note_absence(self, supplier: SupplierNo, absence: Absence, forget_before_ns: int) -> None:
        """Add one; forget those that ended before a wall time, or days after this one: the clock was wrong."""
        with self.savepoint():
            self._change(_PUT_ABSENCE, (supplier, absence.ended_ns, round(absence.length_s * _MS)))
            self._change(_FORGET_ABSENCES, (supplier, forget_before_ns, absence.ended_ns + _DAY_NS))

    def audits(self) -> Mapping[SupplierNo, AuditTally]:
        """How audits ended, for each supplier that was audited."""
        return {supplier: AuditTally(*tally) for supplier, *tally in self._rows(_AUDITS)}

    def put_audits(self, supplier: SupplierNo, tally: AuditTally) -> None:
        """Insert or replace."""
        self._change(_PUT_AUDITS, (supplier, tally.proven, tally.wrong, tally.last_ns))

    def tracks(self) -> Sequence[Track]:
        """What was seen of suppliers, by number."""
        return [Track(*row) for row in self._rows(_TRACKS)]

    def put_track(self, track: Track) -> None:
        """Insert or replace."""
        seen = track.present_s, track.absent_s, track.proven, track.wrong, track.bytes_per_s
        self._change(_PUT_TRACK, (track.supplier, *seen))

    def verdicts(self) -> Sequence[Verdict]:
        """What was decided about suppliers, the oldest first; at most the last VERDICTS."""
        return [_verdict(*row) for row in self._rows(_VERDICTS)]

    def note_verdict(self, verdict: Verdict) -> None:
        """Add one, and forget the oldest beyond VERDICTS."""
        times = (round(each * _MS) for each in (verdict.away_s, verdict.wait_s, verdict.longest_s))
        numbers = verdict.spare, verdict.missing, verdict.instead, verdict.fragments, verdict.bytes
        with self.savepoint():
            self._change(_NOTE_VERDICT, (verdict.supplier, int(verdict.rule), verdict.at_ns, *times, *numbers))
            self._change(_FORGET_VERDICTS, (VERDICTS,))


def _verdict(
    supplier: SupplierNo, rule: int, at_ns: int, away_ms: int, wait_ms: int, longest_ms: int, *numbers: Any
) -> Verdict:
    return Verdict(supplier, Rule(rule), at_ns, away_ms / _MS, wait_ms / _MS, longest_ms / _MS, *numbers)
