"""Change sets of the catalog: joining many to one.

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
