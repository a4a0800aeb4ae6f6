"""A process that adds rows to a SQLite database until it fails, and says on stdout which are committed.

python -m tests.mount.bookkeeper DATABASE WRITER FROM
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from contextlib import closing

BUSY_S = 60
# In WAL mode FULL makes a commit durable. With a rollback journal only EXTRA does: the removal of the journal is what
# commits, and FULL does not sync the directory. Source: https://sqlite.org/pragma.html#pragma_synchronous
MODES = {"wal": "FULL", "delete": "EXTRA", "persist": "FULL"}


def opened(path: str) -> sqlite3.Connection:
    """The database, as its mode wants it. The mode is part of its name."""
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    mode = next(mode for mode in MODES if f"-{mode}" in path)
    database.execute(f"PRAGMA journal_mode = {mode}").fetchall()
    database.execute(f"PRAGMA synchronous = {MODES[mode]}")
    return database


def make(path: str) -> None:
    with closing(opened(path)) as database:
        database.execute("CREATE TABLE entry (writer INTEGER, number INTEGER, note BLOB, UNIQUE (writer, number))")


def note(writer: int, number: int) -> bytes:
    dice = random.Random(writer * 1_000_003 + number)
    return dice.randbytes(dice.choice((10, 300, 9000)))


def commit(database: sqlite3.Connection, path: str) -> None:
    """Commit, and return only when that is durable.

    In mode "delete" SQLite calls a commit done also when it could not open the directory to sync the removal of the
    journal, so a mount that is killed right then takes the commit back. Source: unixDelete in SQLite's os_unix.c
    """
    database.execute("COMMIT")
    if "-delete" in path:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def keep(path: str, writer: int, first: int) -> None:
    """Add rows for ever; now and then change and remove old ones in the same transaction."""
    with closing(opened(path)) as database:
        number = first
        while True:
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (writer, number, note(writer, number)))
            database.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (writer, -1, note(writer, number)))
            commit(database, path)
            print(number, flush=True)
            number += 1


if __name__ == "__main__":
    try:
        keep(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except (sqlite3.Error, OSError) as error:
        sys.exit(str(error))
