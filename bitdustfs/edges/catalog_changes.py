"""Change sets of the catalog: joining many to one, and cutting one into many.

A change set is a changeset of SQLite's session extension: for each row that was inserted, deleted or updated, its
key, what it was and what it is. Joined in their order, two changes of one row become one, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from bitdustfs.errors import BadFormat


class SqliteChanges:
    """`ports.Changes` for the change sets that `Catalog.outbox` gives."""

    def merge(self, change_sets: Sequence[bytes]) -> bytes:
        """Join change sets, oldest first, to one that does the same. Empty if they undo each other.

        Raises:
            BadFormat: one of them is none.
        """
        builder = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]  # its stub says less than it knows
        try:
            for changes in change_sets:
                builder.add(changes)
            return builder.output()
        except apsw.Error as e:
            raise BadFormat(what=f"a change set of the catalog cannot be read: {e}") from e
        finally:
            builder.close()

    def split(self, changes: bytes, most_bytes: int) -> list[bytes]:
        """Cut a change set into ones that do the same one after another.

        Returns:
            Change sets of about `most_bytes` at most, each with one change at least; none of an empty one.
        """
        if len(changes) <= most_bytes:
            return [changes] if changes else []
        parts: list[bytes] = []
        builder, held = apsw.ChangesetBuilder(), 0  # type: ignore[no-untyped-call]
        for change in apsw.Changeset.iter(changes):
            builder.add_change(change)
            held += sum(_size(value) for row in (change.old, change.new) for value in row or ())
            if held >= most_bytes:
                parts.append(builder.output())
                builder, held = apsw.ChangesetBuilder(), 0  # type: ignore[no-untyped-call]
        return [*parts, builder.output()] if held else parts


def _size(value: object) -> int:
    return len(value) + 4 if isinstance(value, bytes | str) else 9
