"""The whole main job, end to end: mount, write, lose the local copy and suppliers, read back byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.practice import Practice, wait_until
from tests.mount.trees import real_tree, run

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
PLAINTEXT = b"the quick brown fox keeps the family photos"
NAME = "a-very-telling-file-name.txt"


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    with Practice(tmp_path_factory.mktemp("swarm")) as practice:
        yield practice


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(("files", "mebibytes"), [(1000, 16), pytest.param(3000, 32, marks=pytest.mark.long)])
def test_a_real_tree_survives_cache_drop_and_n_minus_k_dead_suppliers(
    tmp_path: Path, files: int, mebibytes: int
) -> None:
    source = real_tree(tmp_path / "source", files)
    large = tmp_path / "large"
    large.write_bytes(random.Random(5).randbytes(mebibytes << 20))
    with Practice(tmp_path / "swarm", spares=2) as practice:
        run("cp", "-a", source, practice.path / "tree")
        run("git", "clone", "--quiet", "--no-local", REPOSITORY, practice.path / "clone")
        run("cp", large, practice.path / "large")
        practice.sync()
        before = practice.status()
        assert (before["margin"], before["state"], before["practice"]) == (2, "safe", True)
        assert before["held"] == before["wanted"] == 5
        practice.forget()
        practice.run("demo", "kill", "1")
        practice.kill_supplier(3)
        wait_until("margin 0", lambda: practice.status()["margin"] == 0)
        run("diff", "-r", source, practice.path / "tree")
        assert digest(practice.path / "large") == digest(large)
        run("git", "-C", practice.path / "clone", "fsck", "--full")
        run("git", "-C", practice.path / "clone", "status")
        assert os.readlink(practice.path / "tree" / "a symlink") == "abc.py"
        assert (practice.path / "tree" / "a hard link").stat().st_nlink == 2


def test_no_supplier_holds_a_known_plaintext_or_a_known_name(swarm: Practice) -> None:
    (swarm.path / NAME).write_bytes(PLAINTEXT * 20_000)
    (swarm.path / "small").write_bytes(PLAINTEXT)
    swarm.sync()
    searched = 0
    for number in range(1, 6):
        for path in swarm.supplier_home(number).rglob("*"):
            assert NAME not in path.name
            content = b""
            if path.is_file():
                with suppress(FileNotFoundError):  # it is being let go
                    content = path.read_bytes()
            searched += len(content)
            assert PLAINTEXT not in content
            assert NAME.encode() not in content
    assert searched > len(PLAINTEXT) * 20_000


def stored_by(swarm: Practice, number: int) -> set[Path]:
    """The files on the shelf of a supplier."""
    return {path for path in (swarm.supplier_home(number) / "shelf").rglob("*") if path.is_file()}


def sizes_of(paths: set[Path]) -> dict[Path, int]:
    """Of those that are still there: what old states of the catalog need no more is being let go."""
    found = {}
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_size
    return found


def flip_a_bit(path: Path, at: int) -> None:
    stored = bytearray(path.read_bytes())
    stored[at] ^= 1
    path.write_bytes(stored)


def test_a_flipped_bit_in_a_stored_fragment_is_noticed_and_harmless(rough_swarm: Practice) -> None:
    content = random.Random(6).randbytes(3_000_000)
    rough_swarm.sync()
    before = stored_by(rough_swarm, 1)
    (rough_swarm.path / "file").write_bytes(content)
    rough_swarm.sync()
    rough_swarm.forget()
    logged = len(rough_swarm.log())
    sizes = sizes_of(stored_by(rough_swarm, 1) - before)
    for path in (path for path, size in sizes.items() if size == max(sizes.values())):
        flip_a_bit(path, -1000)

    def is_noticed() -> bool:  # not by the first read if others answer sooner
        assert (rough_swarm.path / "file").read_bytes() == content
        rough_swarm.forget()
        lines = rough_swarm.log()[logged:].splitlines()
        return any("supplier1" in line and "WARNING" in line for line in lines)

    wait_until("it is noticed", is_noticed)
    wait_until("made again", lambda: not rough_swarm.status()["missing_fragments"])


def test_an_audit_finds_what_a_disk_lost_and_it_is_made_again(rough_swarm: Practice) -> None:
    rough_swarm.sync()
    before = stored_by(rough_swarm, 1)
    for number in range(12):
        (rough_swarm.path / f"file {number}").write_bytes(random.Random(number).randbytes(600_000))
    rough_swarm.sync()
    sizes = sizes_of(stored_by(rough_swarm, 1) - before)
    for path in [path for path, size in sizes.items() if size > 100_000][::2]:
        flip_a_bit(path, sizes[path] // 2)
    said = rough_swarm.run("audit", ok=(35,)).stdout.splitlines()
    assert said[0].startswith("supplier1: ")
    assert "wrong or gone, and are made again" in said[0]
    assert all("all of" in line for line in said[1:])
    wait_until("made again", lambda: not rough_swarm.status()["missing_fragments"])
    assert "all of" in rough_swarm.run("audit", "supplier1").stdout


def test_reads_fail_in_time_when_too_few_suppliers_are_left_and_work_again_when_they_are_back(
    rough_swarm: Practice,
) -> None:
    content = random.Random(7).randbytes(1_000_000)
    (rough_swarm.path / "file").write_bytes(content)
    rough_swarm.sync()
    rough_swarm.forget()
    for number in (1, 2, 3):
        rough_swarm.kill_supplier(number)
    wait_until("margin -1", lambda: rough_swarm.status()["margin"] == -1)
    with pytest.raises(TimeoutError):
        (rough_swarm.path / "file").read_bytes()
    assert (rough_swarm.path / "file").stat().st_size == len(content)
    (rough_swarm.path / "another").write_bytes(b"writes go on")
    assert (rough_swarm.path / "another").read_bytes() == b"writes go on"
    rough_swarm.run("demo", "revive", "2")
    wait_until("margin 0", lambda: rough_swarm.status()["margin"] == 0)
    assert (rough_swarm.path / "file").read_bytes() == content
    rough_swarm.revive(1, 3)


def test_a_killed_mount_is_mounted_again_without_cleaning_and_keeps_what_was_synced(rough_swarm: Practice) -> None:
    with (rough_swarm.path / "file").open("wb") as file:
        file.write(PLAINTEXT)
        file.flush()
        os.fsync(file.fileno())
    rough_swarm.kill_mount()
    rough_swarm.up()
    assert (rough_swarm.path / "file").read_bytes() == PLAINTEXT
    rough_swarm.wait_for_suppliers()
    rough_swarm.sync()
    rough_swarm.forget()
    assert (rough_swarm.path / "file").read_bytes() == PLAINTEXT


def test_demo_up_again_changes_nothing(swarm: Practice) -> None:
    before = swarm.mount_pid()
    swarm.up()
    assert swarm.mount_pid() == before


def test_status_says_that_nothing_is_really_safe_in_a_practice_swarm_and_df_shows_its_name(swarm: Practice) -> None:
    (swarm.path / "file").write_bytes(b"x")
    swarm.sync()
    shown = swarm.run("status").stdout
    assert "practice: all suppliers are on this machine; do not keep anything here" in shown
    assert "would survive the loss of this machine, were the suppliers not on it" in shown.splitlines()[0]
    assert "practice" in run("df", swarm.path)


def test_statfs_tells_what_the_contracts_can_hold(swarm: Practice) -> None:
    told = os.statvfs(swarm.path)
    capacity = sum(supplier["capacity_bytes"] for supplier in swarm.status()["suppliers"])
    assert 0 < told.f_bavail * told.f_frsize <= capacity * 3 // 5


def test_tar_sqlite_and_an_editors_save_work_in_the_mount(swarm: Practice, tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source", 100)
    run("tar", "-C", source, "-cf", swarm.path / "all.tar", ".")
    (swarm.path / "untarred").mkdir()
    run("tar", "-C", swarm.path / "untarred", "-xf", swarm.path / "all.tar")
    run("diff", "-r", source, swarm.path / "untarred")

    database = sqlite3.connect(swarm.path / "data.sqlite")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE t (x INTEGER)")
    for number in range(50):
        with database:
            database.execute("INSERT INTO t VALUES (?)", (number,))
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT sum(x) FROM t").fetchone() == (sum(range(50)),)
    database.close()

    letter = swarm.path / "letter.txt"
    letter.write_text("first version")
    temporary = swarm.path / ".letter.txt.swp"
    temporary.write_text("second version")
    os.replace(temporary, letter)
    assert letter.read_text() == "second version"
    swarm.sync()
    swarm.forget()
    assert letter.read_text() == "second version"


def test_a_file_of_holes_costs_nothing_and_reads_as_zeros(swarm: Practice) -> None:
    path = swarm.path / "holes"
    before = swarm.status()["blocks"]
    with path.open("wb") as file:
        file.truncate(50 << 30)
    swarm.sync()
    assert swarm.status()["blocks"] == before
    with path.open("rb") as file:
        file.seek(25 << 30)
        assert file.read(1 << 20) == bytes(1 << 20)
    path.unlink()


@pytest.mark.parametrize("mebibytes", [350, pytest.param(10_000, marks=pytest.mark.long)])  # more than it may have
def test_mount_stays_small_while_much_streams_through_it(rough_swarm: Practice, mebibytes: int) -> None:
    rough_swarm.remount()  # the most that a process ever had is asked below
    piece = random.Random(8).randbytes(1 << 20)
    with (rough_swarm.path / "stream").open("wb") as file:
        for number in range(mebibytes):
            file.write(number.to_bytes(8, "big") + piece[8:])
    rough_swarm.sync()
    rough_swarm.forget()
    with (rough_swarm.path / "stream").open("rb") as file:
        for number in range(mebibytes):
            assert file.read(1 << 20) == number.to_bytes(8, "big") + piece[8:]
    status = Path(f"/proc/{rough_swarm.mount_pid()}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 300 * 1024
    (rough_swarm.path / "stream").unlink()


@pytest.mark.parametrize("files", [10, pytest.param(1000, marks=pytest.mark.long)])
def test_looking_at_the_beginning_of_files_fetches_little_of_them(swarm: Practice, files: int) -> None:
    size, places = 4 << 20, [swarm.path / f"photo{number}" for number in range(files)]
    dice = random.Random(9)
    for place in places:
        place.write_bytes(dice.randbytes(size))
    swarm.sync()
    for look in (_look_at_once, _look_in_steps):
        swarm.forget()
        before = swarm.status()["fetched_bytes"]
        for place in places:
            look(place)
        assert swarm.status()["fetched_bytes"] - before <= files * size // 10
    for place in places:
        place.unlink()


def _look_at_once(path: Path) -> None:
    with path.open("rb") as file:
        assert len(file.read(65_536)) == 65_536


def _look_in_steps(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        assert sum(len(file.read(8192)) for _ in range(8)) == 65_536
