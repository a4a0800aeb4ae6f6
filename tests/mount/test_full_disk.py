"""The disk under the state directory is full: who is told, what stays, and that it goes on without a restart."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bitdustfs.edges import mounts
from tests.children import bitdustfs
from tests.mount.practice import wait_until
from tests.mount.support import SmallDisk, code_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")]
DICE = random.Random(9)
KEPT = DICE.randbytes(1_000_000)
PIECE = DICE.randbytes(1 << 20)


def write(path: Path, content: bytes, *, sync: bool = False) -> None:
    with path.open("wb", buffering=0) as file:
        done = 0
        while done < len(content):
            done += file.write(content[done:])
        if sync:
            os.fsync(file.fileno())


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def storm(times: int, make: Callable[[int], None]) -> tuple[list[int], set[int | None]]:
    """Do something many times. Returns which times succeeded, and the errors of the others."""
    codes = [code_of(partial(make, number)) for number in range(times)]
    return [number for number, code in enumerate(codes) if code is None], set(codes) - {None}


def test_copy_that_fills_the_disk_fails_and_hurts_nothing_else() -> None:
    with SmallDisk("spool=1G", mib=64) as mount:
        write(mount.path / "kept", KEPT, sync=True)
        written = 0
        with (mount.path / "large").open("wb", buffering=0) as file:
            with pytest.raises(OSError) as caught:
                while True:
                    written += file.write(PIECE[written % len(PIECE) :])
            os.fsync(file.fileno())  # what was taken can be kept
        assert caught.value.errno == errno.ENOSPC
        assert written > 16 << 20
        with (mount.path / "large").open("rb") as file:
            assert file.read() == (PIECE * (written // len(PIECE) + 1))[:written]
        assert (mount.path / "kept").read_bytes() == KEPT
        os.mkdir(mount.path / "names need no room of the spool")
        os.unlink(mount.path / "large")  # which needs the room that the spool has left
        wait_until("the space is given back", lambda: code_of(lambda: write(mount.path / "next", PIECE * 20)) is None)
        mount.stop(signal.SIGKILL)
        mounts.detach(str(mount.path), lazy=True)
        mount.start()
        assert (mount.path / "kept").read_bytes() == KEPT
        assert not (mount.path / "large").exists()
        assert (mount.path / "next").stat().st_size <= 20 << 20


def test_catalog_without_room_refuses_changes_and_keeps_what_it_answered() -> None:
    with SmallDisk("spool=1G", mib=64) as mount:
        write(mount.path / "kept", KEPT, sync=True)
        mount.fill(leave=28 << 20)
        small, codes = storm(700, lambda number: write(mount.path / f"small{number}", PIECE[:15000]))
        assert small and codes == {errno.ENOSPC}  # with room for names left, so
        os.mkdir(mount.path / "directory")
        mount.fill()
        before = resident_kib(mount.process.pid)
        storms: dict[str, Callable[[int], None]] = {
            "l": lambda number: os.symlink("x" * 4000, mount.path / f"l{number}"),
            "d": lambda number: os.mkdir(mount.path / f"d{number}"),
            "f": lambda number: os.close(os.open(mount.path / f"f{number}", os.O_CREAT | os.O_WRONLY)),
            "r": lambda number: os.rename(mount.path / f"l{number}", mount.path / f"r{number}"),
        }
        done: dict[str, list[int]] = {}
        for name, make in storms.items():
            done[name], codes = storm(3000 if name == "l" else 500, make)
            assert codes <= {errno.ENOSPC, errno.ENOENT}, name
        assert len(done["l"]) < 3000  # as many as one filled log and one open transaction hold
        # one transaction several times, as statements, pages and change set, beside SQLite's page cache of 16 MiB
        assert resident_kib(mount.process.pid) < before + 64 * 1024
        with (mount.path / "kept").open("r+b", buffering=0) as file:
            assert code_of(lambda: os.fsync(file.fileno())) == errno.ENOSPC
            assert code_of(lambda: file.write(b"x")) == errno.ENOSPC
        assert (mount.path / "kept").read_bytes() == KEPT
        assert (mount.path / f"small{small[0]}").read_bytes() == PIECE[:15000]
        assert "directory" in os.listdir(mount.path)
        trouble = json.loads(bitdustfs("--home", mount.state, "status", "--json").stdout)["trouble"]
        assert any("nothing can be changed now: no space left" in sentence for sentence in trouble)
        refused = bitdustfs("--home", mount.state, "umount", str(mount.path))
        assert (refused.returncode, "no space left" in refused.stderr) == (15, True)
        assert mount.process.poll() is None

        mount.relieve()
        wait_until("changes are taken again", lambda: code_of(lambda: write(mount.path / "next", KEPT)) is None)
        os.sync()
        mount.stop(signal.SIGKILL)
        mounts.detach(str(mount.path), lazy=True)
        mount.start()
        names = set(os.listdir(mount.path))
        renamed = {f"l{number}" for number in done["r"]}
        answered = {f"{name}{number}" for name, numbers in done.items() for number in numbers} - renamed
        assert answered <= names
        assert (mount.path / "kept").read_bytes() == KEPT
        assert all((mount.path / f"small{number}").read_bytes() == PIECE[:15000] for number in small)
