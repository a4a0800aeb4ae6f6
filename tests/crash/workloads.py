"""What people do in a mount, each as one function: small, and the same each time.

Run as `python -m tests.crash.workloads NAME PLACE SOURCE PROMISES`, in a process of its own: a memory map of a
mount that died ends the process that has it. It ends with 1 when the mount dies under it. What a workload promised
itself (a commit that returned) it says with `site.promise`: a byte more in the file PROMISES. For `site.rest` it
prints a line and waits for one.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 60
_GIT = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a workload works."""

    place: Path  # in the mount
    source: Path  # outside of it, as `lay_out_source` makes it
    rest: Callable[[], None]  # returns when all is at the suppliers, if there are any, and unneeded bytes are gone
    promise: Callable[[], object]  # note that one more step survives a power loss


def lay_out_source(place: Path) -> None:
    """Make the tree that is copied: sizes around every limit, a symlink, a hard link; and beside it what changes."""
    dice = random.Random(1)
    (place / "deep/er").mkdir(parents=True)
    for name, size in (
        ("empty", 0),
        ("short", 100),
        ("deep/inline", 16_384),
        ("deep/spool", 16_385),
        ("deep/er/long", 300_000),
        ("deep/er/longer", 700_000),
    ):
        (place / name).write_bytes(dice.randbytes(size))
    (place / "symlink").symlink_to("deep/inline")
    os.link(place / "deep/spool", place / "hard link")
    changed = place.with_name("changed")
    (changed / "deep").mkdir(parents=True)
    (changed / "short").write_bytes(b"changed" * 20)
    (changed / "deep/spool").write_bytes(dice.randbytes(40_000))


def cp(site: Site) -> None:
    """cp -a, then fsync of all that was copied."""
    _run("cp", "-a", str(site.source), str(site.place / "copy"))
    _run("sync", *(str(path) for path in sorted((site.place / "copy").rglob("*")) if not path.is_symlink()))


def rsync(site: Site) -> None:
    """rsync, and again after some files have changed."""
    _run("rsync", "-a", f"{site.source}/", str(site.place / "copy"))
    _run("rsync", "-a", f"{site.source.with_name('changed')}/", str(site.place / "copy"))
    _run("rsync", "-a", "--inplace", f"{site.source}/", str(site.place / "copy"))


def editor(site: Site) -> None:
    """An editor's save: a temporary file, fsync, rename over the old one."""
    for turn in range(4):
        _save(site.place / "letter", _text(turn, 900), sync=True)
        _save(site.place / "book", _text(turn, 60_000), sync=True)


def careless_editor(site: Site) -> None:
    """The same without fsync: rename over the old one alone."""
    for turn in range(4):
        _save(site.place / "letter", _text(turn, 900), sync=False)
        _save(site.place / "book", _text(turn, 60_000), sync=False)


def git(site: Site) -> None:
    """Two commits, everything fsynced."""
    work = site.place / "work"
    _run("git", "init", "--quiet", "--template=", str(work))
    _run("git", "-C", str(work), "config", "core.fsync", "all")
    for turn in range(2):
        (work / "letter").write_bytes(_text(turn, 900))
        (work / "book").write_bytes(random.Random(turn).randbytes(40_000))
        _run("git", "-C", str(work), "add", ".")
        _run("git", "-C", str(work), "commit", "--quiet", "-m", f"turn {turn}")
        _sync_directory(work / ".git/refs/heads")  # git does not, after the rename that makes the commit count
        site.promise()


def sqlite_journal(site: Site) -> None:
    """Transactions with a rollback journal."""
    _transactions(site, "delete")


def sqlite_wal(site: Site) -> None:
    """Transactions with a write-ahead log, checkpoints among them."""
    _transactions(site, "wal")


def append_log(site: Site) -> None:
    """Lines appended to a log, each made durable; it grows out of the catalog into the spool."""
    with (site.place / "log").open("ab", buffering=0) as log:
        for turn in range(24):
            log.write(_text(turn, 1_500))
            if turn % 2:
                os.fdatasync(log.fileno())


def rename_storm(site: Site) -> None:
    """Files and directories moved about, over each other and into each other, links and removals."""
    a, b = site.place / "a", site.place / "b"
    a.mkdir()
    b.mkdir()
    for turn in range(4):
        (a / f"f{turn}").write_bytes(_text(turn, 20_000 + turn))
        (a / f"g{turn}").write_bytes(_text(turn, 500 + turn))
    for turn in range(3):
        os.rename(a / f"f{turn}", b / f"f{turn}")
        os.rename(b / f"f{turn}", b / "last")
        os.rename(a / f"g{turn}", a / f"f{turn + 1}")
        os.link(b / "last", a / f"link{turn}")
        if turn:
            os.unlink(a / f"link{turn - 1}")
    _sync_directory(b)
    os.rename(a, b / "inside")
    a.mkdir()
    os.rename(b / "inside", a)
    os.rename(b / "last", site.place / "last")
    b.rmdir()


def overwrite(site: Site) -> None:
    """A file of which pieces are overwritten, cut off and added again; synced only now and then, unlike its log."""
    dice = random.Random(3)
    path = site.place / "database"
    path.write_bytes(dice.randbytes(150_000))
    with path.open("r+b", buffering=0) as file, (site.place / "log").open("wb", buffering=0) as log:
        for turn in range(32):
            if turn % 8 == 2:
                os.fsync(file.fileno())
            elif turn % 8 == 6:
                file.truncate(dice.randrange(60_000, 160_000))
            else:
                file.seek(dice.randrange(0, 140_000))
                file.write(dice.randbytes(dice.choice((10, 4_096, 30_000))))
            if turn % 4 == 3:
                log.write(b"turn")
                os.fsync(log.fileno())
            if turn % 16 == 15:
                site.rest()


def published(site: Site) -> None:
    """Files that reach the suppliers and change again afterwards."""
    dice = random.Random(4)
    for name, size in (("small", 3_000), ("large", 600_000)):
        (site.place / name).write_bytes(dice.randbytes(size))
    site.rest()
    with (site.place / "large").open("r+b", buffering=0) as file:
        file.seek(100_000)
        file.write(dice.randbytes(300_000))
        os.fsync(file.fileno())
        file.seek(200_000)
        file.write(dice.randbytes(50_000))
    _save(site.place / "small", dice.randbytes(2_000), sync=False)
    site.rest()
    _save(site.place / "small", dice.randbytes(40_000), sync=False)
    _save(site.place / "large", dice.randbytes(20_000), sync=True)
    site.rest()
    (site.place / "small").unlink()
    site.rest()  # with nothing to send: what was unlinked goes from the spool


WORKLOADS: Mapping[str, Callable[[Site], None]] = {
    work.__name__: work
    for work in (
        cp,
        rsync,
        editor,
        careless_editor,
        git,
        sqlite_journal,
        sqlite_wal,
        append_log,
        rename_storm,
        overwrite,
        published,
    )
}


# --- what must hold of what they left -----------------------------------------------------------------------


def check_sqlite(place: Path, promised: int) -> str | None:
    """Say what is wrong with the database of a workload that promised so many transactions."""
    path = place / "data.sqlite"
    if not path.exists():
        return f"{promised} transactions are gone" if promised else None
    database = sqlite3.connect(path)
    try:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        rows = database.execute("SELECT count(*) FROM t").fetchone()[0] if tables else 0
    finally:
        database.close()
    if said != "ok":
        return f"the database is damaged: {said}"
    return None if rows >= promised else f"{rows} transactions are there, {promised} were promised"


def check_git(place: Path, promised: int) -> str | None:
    """Say what is wrong with the repository of a workload that promised so many commits."""
    if not promised:
        return None
    work = str(place / "work")
    for lock in (place / "work/.git").rglob("*.lock"):
        lock.unlink()
    try:
        _run("git", "-C", work, "fsck", "--full")
        count = int(_run("git", "-C", work, "rev-list", "--count", "HEAD"))
    except subprocess.CalledProcessError as error:
        return f"git: {error.stderr}"
    return None if count >= promised else f"{count} commits are there, {promised} were promised"


CHECKS: Mapping[str, Callable[[Path, int], str | None]] = {
    "sqlite_journal": check_sqlite,
    "sqlite_wal": check_sqlite,
    "git": check_git,
}


# --- parts --------------------------------------------------------------------------------------------------


def _run(*words: str) -> str:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env={**os.environ, **_GIT}
    ).stdout


def _text(turn: int, length: int) -> bytes:
    line = f"this is turn {turn}; ".encode()
    return (line * (length // len(line) + 1))[:length]


def _save(path: Path, content: bytes, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _transactions(site: Site, mode: str) -> None:
    try:
        database = sqlite3.connect(site.place / "data.sqlite", isolation_level=None)
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    try:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("PRAGMA synchronous = EXTRA")  # FULL does not wait until the journal's end is durable
        database.execute("PRAGMA wal_autocheckpoint = 8")
        database.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, text BLOB)")
        for turn in range(8):
            database.execute("INSERT INTO t VALUES (?, ?)", (turn, _text(turn, 4_000)))
            site.promise()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    finally:
        database.close()


def main(name: str, place: Path, source: Path, promises: Path) -> int:
    """Run a workload. Returns the exit code."""

    def rest() -> None:
        print("rest", flush=True)
        sys.stdin.readline()

    with promises.open("ab", buffering=0) as told:
        try:
            WORKLOADS[name](Site(place, source, rest, lambda: told.write(b"x")))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} was stopped: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(Path(word) for word in sys.argv[2:5])))
