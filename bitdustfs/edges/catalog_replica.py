"""The catalog's tables about its own way to the suppliers: the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from bitdustfs.edges.catalog_store import Store
from bitdustfs.model import Ino

_PAGE_ROWS = 1000  # looked at in one step
_OUTBOX_SIZES = "SELECT no, length(changes) FROM l_outbox WHERE no > ? ORDER BY no LIMIT ?"
_OUTBOX = "SELECT no, changes FROM l_outbox WHERE no > ? AND no <= ? ORDER BY no"
_OUTBOX_BYTES = "SELECT coalesce(sum(length(changes)), 0) FROM l_outbox"
_DROP_OUTBOX = "DELETE FROM l_outbox WHERE no <= ?"
_PUT_COUNTER = """
    INSERT INTO l_counter (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""


class ReplicaTables(Store):
    """The outbox."""

    @property
    def last_change(self) -> int:
        """The number of the newest committed change of replicated rows; 0: there was none."""
        return self._last_change

    def outbox(self, after: int, most_bytes: int) -> Sequence[tuple[int, bytes]]:
        """(number, change set) of committed changes above `after`, oldest first: at least one, if there is any."""
        sizes = self._rows(_OUTBOX_SIZES, (after, _PAGE_ROWS))
        sums = accumulate(size for _, size in sizes)
        fitting = [no for (no, _), total in zip(sizes, sums, strict=True) if total <= most_bytes]
        if not sizes:
            return []
        return self._rows(_OUTBOX, (after, fitting[-1] if fitting else sizes[0][0]))

    def outbox_bytes(self) -> int:
        """The sum of all change sets in the outbox."""
        total: int = self._rows(_OUTBOX_BYTES)[0][0]
        return total

    def drop_outbox(self, until: int) -> None:
        """Forget the change sets up to this number. Numbers go on."""
        last = min(until, self._last_change)
        with self.savepoint():
            self._change(_DROP_OUTBOX, (last,))
            self._change(_PUT_COUNTER, ("change", last))

    def changed(self, ino: Ino) -> int:
        """The number of the change that last touched an inode's row, names, xattrs or map, or a later one.

        Returns:
            `last_change` + 1 for what is not committed yet; what it was at the start for what was not touched since;
            0 when all that was touched is forgotten.
        """
        return self._touched.number(ino, next_change=self._last_change + 1)

    def forget_changed(self, until: int) -> None:
        """Let `changed` be 0 for what was touched by no change above this number."""
        self._touched.forget(until)
