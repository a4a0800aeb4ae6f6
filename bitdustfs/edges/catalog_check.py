"""Is the catalog's file sound? Looked at before anything is written to it.

A small catalog is checked whole; of a large one the schema and both ends of each table, so that mounting takes no
longer than a second. SQLite meets damage elsewhere when it reads it, and `Store` stops writing then.

**The write-ahead log** is read by SQLite up to the first frame that does not fit its check sum, and the rest is left
out without a word: after a power loss that is right, because nothing behind the first torn frame was ever synced.
But if the log was written to since this machine was started, no write of it is missing, and a commit behind that
frame which fits its own check sum is proof of damage. (The last commit need not fit: writing it may have been
interrupted.) Source: the SQLite file format, "The Write-Ahead Log" and "WAL-Index Format".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path

import apsw

from bitdustfs.errors import CatalogDamaged, LogDamaged

WHOLE_BYTES = 64 * 1024 * 1024  # (tune) of a file that is checked whole: 0.15 s of a processor
_ENDS = 100  # rows at both ends of each table of a larger one
_COMMENT = re.compile("--[^\n]*")
_LOG_HEADER = struct.Struct(">8I")  # magic, version, page bytes, sequence, two salts, two check sums
_FRAME_HEADER = struct.Struct(">6I")  # page number, pages after a commit or 0, two salts, two check sums
_LOG_MAGIC = (0x377F0682, 0x377F0683)  # check sums of words in little and in big endian
_INDEX_FRAMES_AT = 16  # in the -shm: how many frames count, in the machine's own byte order


class LogGap(Enum):
    """Why SQLite left commits of a write-ahead log out."""

    POWER_LOSS = "what was written last and not synced is lost"
    DAMAGE = "what was written has changed"


def check_file(connection: apsw.Connection, path: str, *, size_bytes: int) -> None:
    """Look at a catalog that was just opened.

    Raises:
        CatalogDamaged: what SQLite found, or which table is not what it should be. apsw.Error.
    """
    check_shape(connection, path)
    if size_bytes <= WHOLE_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchall()[0][0]
        if found != "ok":
            raise CatalogDamaged(path=path, why=" ".join(str(found).split()))
        connection.pragma("shrink_memory")  # what is in the cache now is not what will be needed
        return
    for name in _tables(connection):
        key = connection.execute(f"SELECT name FROM pragma_table_info('{name}') WHERE pk = 1").fetchall()[0][0]
        for order in ("ASC", "DESC"):
            connection.execute(f"SELECT * FROM {name} ORDER BY {key} {order} LIMIT {_ENDS}").fetchall()


def check_shape(connection: apsw.Connection, path: str) -> None:
    """See that a file has our tables and indexes and nothing else: no name in it may be used before.

    Raises:
        CatalogDamaged: which of them is not what it should be. apsw.Error.
    """
    want, have = _shape_wanted(), _shape(connection)
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise CatalogDamaged(path=path, why=f"its table or index {name!r} is not as it should be")


def log_gap(path: str, *, index_descriptor: int, log_changed_s: float) -> LogGap | None:
    """See whether SQLite, which just opened it, left out whole commits of the log. None: it did not.

    What a power loss left behind the gap is cut off: the next commits go in its place, and when this process is
    killed after some of them, the rest would look like damage.

    Args:
        index_descriptor: of the -shm. It must stay open as long as SQLite has it: closing it drops SQLite's locks.
        log_changed_s: when the log was last written before SQLite opened it.
    Raises:
        LogDamaged: not even the beginning of the log can be read. OSError.
    """
    (frames,) = struct.unpack("=I", os.pread(index_descriptor, 4, _INDEX_FRAMES_AT))
    with open(path + "-wal", "rb") as log:  # SQLite does not lock the log
        head = log.read(_LOG_HEADER.size)
        if len(head) < _LOG_HEADER.size:
            return None
        magic, _version, page_bytes, _sequence, *salts, first, second = _LOG_HEADER.unpack(head)
        big = bool(magic & 1)
        if magic not in _LOG_MAGIC or _sums(head[:24], (0, 0), big=big) != (first, second):
            raise LogDamaged(path=path)
        end = log.seek(frames * (_FRAME_HEADER.size + page_bytes), os.SEEK_CUR)
        before = None
        while len(frame := log.read(_FRAME_HEADER.size + page_bytes)) == _FRAME_HEADER.size + page_bytes:
            _page, pages, *its_salts, first, second = _FRAME_HEADER.unpack_from(frame)
            if its_salts != salts:
                break  # of an earlier round
            if before is not None and pages:
                sums = _sums(frame[_FRAME_HEADER.size :], _sums(frame[:8], before, big=big), big=big)
                if sums == (first, second):
                    if log_changed_s > _started_s():
                        return LogGap.DAMAGE
                    os.truncate(path + "-wal", end)
                    return LogGap.POWER_LOSS
            before = first, second
    return None


def _sums(content: bytes, start: tuple[int, int], *, big: bool) -> tuple[int, int]:
    first, second = start
    for left, right in struct.iter_unpack(">2I" if big else "<2I", content):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second


def _started_s() -> float:
    """When this machine was started, by its clock of now."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "btime":
            return float(value)
    return float("inf")


@cache
def _shape_wanted() -> Mapping[str, object]:
    made = apsw.Connection(":memory:")
    try:
        made.execute(resources.files("bitdustfs.edges").joinpath("schema.sql").read_text())
        return _shape(made)
    finally:
        made.close()


def _shape(connection: apsw.Connection) -> Mapping[str, object]:
    """Everything that a file has, by its name: what it is, of which table, and how it was made, but for comments."""
    rows = connection.execute("SELECT name, type, tbl_name, sql FROM sqlite_schema").fetchall()
    return {str(name): (*what, " ".join(_COMMENT.sub("", str(sql)).split())) for name, *what, sql in rows}


def _tables(connection: apsw.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return [str(name) for (name,) in rows]
