"""Change sets of the catalog: joining many to one, and cutting one into many.

A change set is a changeset of SQLite's session extension: for each row that was inserted, deleted or updated, its
key, what it was and what it is. Joined in their order, two changes of one row become one, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from bitdustfs.core.past import at
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.errors import BadFormat
from bitdustfs.model import BlockNo, ChunkNo, Cookie, Deeds, Ino, SnapshotKind, Touches

_PARENT, _COOKIE, _NAME, _SHOWN = 0, 1, 4, 5  # columns of r_name
_DIED = {"r_inode": 2, "r_name": 3, "r_xattr": 3, "r_map": 3}
_ATTRIBUTES, _SIZE, _VERSION = (
    (3, 4, 5),
    7,
    13,
)  # columns of r_inode: mode, owner, group; how often published
_VALUE = 4  # column of r_xattr
_COUNT = 4  # column of r_map
_FINGERPRINT = 1  # column of r_chunk
_LABEL = 3  # column of r_supplier
_MADE = (SnapshotKind.BY_PERSON, SnapshotKind.BY_ITSELF)
_SNAPSHOT, _KIND, _GONE = 1, 3, 4  # columns of r_snapshot: name, who made it, whether it was deleted


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

    def deeds(self, change_sets: Sequence[bytes]) -> Deeds:
        """Say what change sets, oldest first, did to the tree. Raises BadFormat: one of them is none."""
        created, rewritten, altered = set[Ino](), set[Ino](), set[Ino]()
        removed = set[Ino]()
        closed = dict[Ino, Ino]()  # a snapshot has what they were: what they are now is a row of its own
        unnamed: dict[tuple[Ino, int], tuple[Ino, bytes, Ino]] = {}
        unnamed_then: dict[tuple[Ino, int], Ino] = {}
        placed = set[tuple[Ino, int]]()
        named: dict[tuple[Ino, int], tuple[bytes | None, Ino]] = {}  # None: as before
        hired: list[str] = []
        kept: list[str] = []
        first_block: BlockNo | None = None
        before: dict[Ino, tuple[int | None, int | None, int | None]] = {}
        xattrs: dict[tuple[Ino, bytes], bytes | Ino | None] = {}
        for change in self._each(self.merge(change_sets)):
            old, new = change.old or (), change.new or ()
            died = _DIED.get(change.name)
            match change.name:
                case _ if died is not None and change.op == "DELETE" and old[died] != LIVE:
                    pass  # of a snapshot that went
                case _ if died is not None and change.op == "INSERT" and new[died] != LIVE:
                    pass  # of a fork that was brought in
                case "r_inode" if change.op == "INSERT":
                    created.add(_ino(new[0]))
                case "r_inode" if change.op == "DELETE":
                    removed.add(_ino(old[0]))
                case "r_inode" if died is not None and _has(new, died):
                    closed[_ino(old[0])] = at(_ino(new[died]) - 1, _ino(old[0]))
                    mode, uid, gid = (_ino(old[column]) if _has(new, column) else None for column in _ATTRIBUTES)
                    before |= {_ino(old[0]): (mode, uid, gid)} if (mode, uid, gid) != (None, None, None) else {}
                case "r_inode" if change.op == "UPDATE":
                    rewritten |= {_ino(old[0])} if _has(new, _VERSION) else set()
                    altered |= {_ino(old[0])} if any(_has(new, column) for column in _ATTRIBUTES) else set()
                case "r_map":
                    rewritten.add(_ino((old or new)[0]))
                case "r_xattr" if change.op == "INSERT":
                    xattrs.setdefault((_ino(new[0]), _bytes(new[1])), None)
                case "r_xattr" if change.op == "DELETE" or _has(new, _VALUE):
                    xattrs[_ino(old[0]), _bytes(old[1])] = _bytes(old[_VALUE])
                case "r_xattr" if died is not None:
                    xattrs[_ino(old[0]), _bytes(old[1])] = at(_ino(new[died]) - 1, _ino(old[0]))
                case "r_name" if change.op == "DELETE":
                    parent, cookie = _ino(old[_PARENT]), _ino(old[_COOKIE])
                    unnamed[parent, cookie] = parent, _bytes(old[_NAME]), _ino(old[_SHOWN])
                case "r_name" if died is not None and change.op == "UPDATE" and _has(new, died):
                    parent, cookie = _ino(old[_PARENT]), _ino(old[_COOKIE])
                    unnamed_then[parent, cookie] = at(_ino(new[died]) - 1, parent)
                case "r_name" if _has(new, _SHOWN):
                    row, is_whole = (new, True) if change.op == "INSERT" else (old, False)
                    place = _ino(row[_PARENT]), _ino(row[_COOKIE])
                    named[place] = _bytes(new[_NAME]) if is_whole else None, _ino(new[_SHOWN])
                    placed |= {place} if is_whole else set()
                case "r_supplier" if change.op == "INSERT":
                    hired.append(str(new[_LABEL]))
                case "r_counter" if old and old[0] == "block":
                    first_block = BlockNo(_ino(old[1]))
                case "r_snapshot" if change.op == "INSERT" and new[_KIND] in _MADE and not new[_GONE]:
                    kept.append(str(new[_SNAPSHOT]))
        rewritten |= created & (closed.keys() | removed)  # perhaps: who asks compares what they have
        created -= closed.keys() | removed
        other = {
            ino
            for place, (name, ino) in named.items()
            if unnamed.get(place, ())[1:] != (name, ino) and place not in unnamed_then
        }
        inos = (frozenset(created), frozenset(rewritten), frozenset(altered), frozenset(other))
        went = [(then, Cookie(place[1])) for place, then in unnamed_then.items() if place not in placed]
        anew = [(then, Cookie(place[1]), named[place][1]) for place, then in unnamed_then.items() if place in placed]
        lost = tuple(name for place, name in unnamed.items() if place not in placed)  # others are of now only, since
        return Deeds(
            *inos,
            lost,
            tuple(hired),
            inodes_then=frozenset(closed.values()),
            unnamed_then=tuple(went),
            named_then=tuple(anew),
            kept=tuple(kept),
            before=before,
            xattrs=xattrs,
            first_block=first_block,
        )

    def between(self, undone: Sequence[bytes], done: Sequence[bytes]) -> bytes:
        """Join what takes change sets back and then makes others.

        Args:
            undone: oldest first; they were made last.
            done: oldest first.
        Raises:
            BadFormat: one of them is none.
        """
        try:
            back = [apsw.Changeset.invert(changes) for changes in reversed(undone)]
        except apsw.Error as e:
            raise BadFormat(what=f"a change set of the catalog cannot be read: {e}") from e
        return self.merge([*back, *done])

    def touches(self, changes: bytes) -> Touches:
        """Say what a change set touches of the tree as it is now. Raises BadFormat: it is none."""
        names, inodes, refilled = set[tuple[Ino, Cookie]](), set[Ino](), set[ChunkNo]()
        contents = dict[Ino, set[tuple[int, int]]]()
        made, unmade = set[Ino](), set[Ino]()
        suppliers = False
        try:
            for change in self._each(changes):
                old, new = change.old or (), change.new or ()
                died = _DIED.get(change.name)
                row = old if change.op == "DELETE" else new
                if died is not None and change.op != "UPDATE" and row[died] != LIVE:
                    continue  # of a snapshot
                match change.name:
                    case "r_name":
                        row = old or new
                        names.add((_ino(row[_PARENT]), Cookie(_ino(row[_COOKIE]))))
                    case "r_inode":
                        inodes.add(_ino((old or new)[0]))
                        if change.op == "INSERT":
                            made.add(_ino(new[0]))
                        elif change.op == "DELETE" or _has(new, _DIED["r_inode"]):
                            unmade.add(_ino(old[0]))
                        if change.op == "UPDATE" and (_has(new, _VERSION) or _has(new, _SIZE)):
                            contents.setdefault(_ino(old[0]), set())
                    case "r_xattr":
                        inodes.add(_ino((old or new)[0]))
                    case "r_map":
                        row = old or new
                        counts = [each[_COUNT] for each in (old, new) if each and each[_COUNT] is not apsw.no_change]
                        most = max((int(_ino(count)) for count in counts), default=0)
                        contents.setdefault(_ino(row[0]), set()).add((int(_ino(row[1])), most))
                    case "r_chunk" if change.op == "UPDATE" and _has(new, _FINGERPRINT):
                        refilled.add(ChunkNo(_ino(old[0])))
                    case "r_supplier":
                        suppliers = True
        except apsw.Error as e:
            raise BadFormat(what=f"a change set of the catalog cannot be read: {e}") from e
        return Touches(
            frozenset(names),
            frozenset(inodes),
            frozenset(unmade - made),
            {ino: tuple(sorted(spans)) for ino, spans in contents.items()},
            frozenset(refilled),
            suppliers,
        )

    @staticmethod
    def _each(changes: bytes) -> Iterator[apsw.TableChange]:
        if changes:
            yield from apsw.Changeset.iter(changes)


def _has(new: Sequence[object], column: int) -> bool:
    """Whether an inserted or updated row has a new value in this column."""
    return bool(new) and new[column] is not apsw.no_change


def _ino(value: object) -> Ino:
    assert isinstance(value, int), "the schema is STRICT"
    return Ino(value)


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "the schema is STRICT"
    return value


def _size(value: object) -> int:
    return len(value) + 4 if isinstance(value, bytes | str) else 9
