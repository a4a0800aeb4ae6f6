"""Suppliers die for good, and the volume heals itself: with real processes, on the practice swarm's spares."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitdustfs.cli.audit import EXIT_FOUND
from bitdustfs.cli.status import STATE_EXIT
from bitdustfs.model import LEAF_BYTES
from tests.mount.practice import Practice, wait_until
from tests.mount.support import HANGS_S
from tests.mount.trees import real_tree, run

pytestmark = pytest.mark.slow


COPYING_S = 3  # at least
PATIENCE = "15s"  # on a busy machine who lives may be silent for longer than few seconds, and there are two spares
README = Path(__file__).resolve().parents[2] / "README.md"
MAY_DIFFER = (  # from what README prints
    (re.compile(r"\d+(\.\d+)? [KM]iB"), "SIZE"),
    (re.compile(r"\d+ files and folders"), "N files and folders"),
    (re.compile(r"blocks +\d+;"), "blocks N;"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"since \d{4}-\d\d-\d\d \d\d:\d\d"), "since DATE"),
    (re.compile(r"score \d+"), "score N"),
    (re.compile(r" +"), " "),
)
LEFT_OUT = "..."


def size_of(tree: Path) -> int:
    return sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())


def states(practice: Practice) -> dict[str, str]:
    return {each["label"]: each["state"] for each in practice.status()["suppliers"]}


@contextmanager
def half_copied(source: Path, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A copy that stands still on its way, until SIGCONT."""
    for seconds in (COPYING_S, 10 * COPYING_S, 100 * COPYING_S):
        slowly = f"--bwlimit={max(1, size_of(source) // 1024 // seconds)}"  # KiB a second
        copying = subprocess.Popen(["rsync", "-a", slowly, f"{source}/", str(target)])
        try:
            wait_until("something was copied", target.exists)
            copying.send_signal(signal.SIGSTOP)
            if copying.poll() is None:
                yield copying
                return
        finally:
            copying.kill()
            copying.wait()
        shutil.rmtree(target)  # it was over before we looked, on a machine that is that busy
    raise AssertionError("nothing is copied as slowly as that")


def is_whole(practice: Practice) -> bool:
    """All files are at suppliers, each block with all of 5, and two of them may die.

    What holds the catalog may be a few whole copies, of when fewer were hired: they survive as many losses.
    """
    told = practice.status()
    is_held = told["missing_fragments"] == 0 and told["held"] == told["wanted"] and told["margin"] >= 2
    return is_held and set(told["codes"]) <= {"3/5"} and not told["files_local"]


def wait_until_whole(practice: Practice, what: str) -> None:
    """Fail the test with what the mount says of itself if it does not become whole."""
    try:
        wait_until(what, lambda: is_whole(practice))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{practice.status()}\n{practice.ask('rebuild')}") from None


def test_two_suppliers_killed_under_rsync_are_replaced_by_the_spares_and_two_more_may_die(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source", 400)
    with Practice(tmp_path / "swarm", spares=2, patience=PATIENCE) as practice:
        with half_copied(source, practice.path / "tree") as copying:
            practice.run("demo", "kill", "1")
            practice.run("demo", "kill", "3")
            copying.send_signal(signal.SIGCONT)
            assert copying.wait(timeout=HANGS_S) == 0
        wait_until_whole(practice, "the spares hold what the dead ones held")
        wanted = {f"supplier{n}": "lost" if n in (1, 3) else "online" for n in range(1, 8)}
        wait_until(
            "the spares were seen online, which is looked for from time to time", lambda: states(practice) == wanted
        )
        practice.sync()
        practice.forget()
        practice.run("demo", "kill", "2")
        practice.run("demo", "kill", "4")
        run("diff", "-r", source, practice.path / "tree")


def lose_leaves(shelf: Path, share: float) -> int:
    """Change a byte in so many of the leaves of a shelf, at random. Returns in how many."""
    dice, lost = random.Random(5), 0
    for path in sorted(shelf.glob("*/??/*")):
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            continue  # it was let go meanwhile
        with file:
            size = file.seek(0, os.SEEK_END)
            leaves = [at for at in range(0, size, LEAF_BYTES) if dice.random() < share]
            for at in leaves:
                file.seek(min(at + LEAF_BYTES, size) - 1)
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 1]))
        lost += len(leaves)
    return lost


def test_shelf_that_lost_a_twentieth_of_its_leaves_is_found_and_repaired(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source", 60)
    with Practice(tmp_path / "swarm", patience="3m") as practice:
        run("rsync", "-a", f"{source}/", str(practice.path / "tree"))
        practice.sync()
        assert lose_leaves(practice.supplier_home(1) / "shelf", 0.05)
        practice.run("audit", "supplier1", ok=(EXIT_FOUND,))
        wait_until_whole(practice, "what was lost is made again")
        practice.run("audit", "supplier1")


@pytest.mark.parametrize("patience", ["30s", pytest.param("3m", marks=pytest.mark.long)])
def test_suppliers_that_stop_for_longer_than_a_ping_are_waited_for(tmp_path: Path, patience: str) -> None:
    """A third of the patience is a ping, so this takes half a minute, or one and a half, and next to no processor."""
    with Practice(tmp_path / "swarm", spares=2, patience=patience) as practice:
        (practice.path / "file").write_bytes(bytes(100_000))
        practice.sync()
        with practice.stopped():
            wait_until("all are silent", lambda: not any(s["answers"] for s in practice.status()["suppliers"]), 120)
        wait_until("all are back", lambda: all(s["answers"] for s in practice.status()["suppliers"]))
        wanted = ["online"] * 5 + ["candidate"] * 2
        wait_until("nobody took a place", lambda: list(states(practice).values()) == wanted)
        assert is_whole(practice)
        assert [each["rule"] for each in practice.ask("rebuild")["verdicts"]] == ["hire"] * 5


def session() -> list[tuple[str, str]]:
    """The first one of README: each command, and what is printed."""
    block = README.read_text().split("```")[1]
    steps = (step.partition("\n") for step in block.strip("\n").removeprefix("$ ").split("\n$ "))
    return [(command.partition(" #")[0].rstrip(), printed) for command, _, printed in steps]


def is_as_printed(said: str, printed: str) -> bool:
    for pattern, name in MAY_DIFFER:
        said, printed = pattern.sub(name, said), pattern.sub(name, printed)
    wanted = [r"(.+\n)*?" if line.strip() == LEFT_OUT else re.escape(line) + "\n" for line in printed.splitlines()]
    return re.fullmatch("".join(wanted), said) is not None


def test_session_in_which_killed_suppliers_are_replaced_is_as_readme_prints_it(tmp_path: Path) -> None:
    """With a smaller tree; and instead of sleeping it waits, with less patience, until what README prints is so."""
    source = real_tree(tmp_path / "source", 60)
    with Practice(tmp_path / "swarm", spares=2) as practice:
        mount = str(practice.path)

        def do(command: str) -> str:
            command = command.replace("/usr/share/perl/5.36.0", str(source)).replace("~/BitDust", mount)
            said = ""
            for part in command.split("; "):
                verb, _, rest = part.partition(" | grep ")
                if verb.startswith("bitdustfs "):
                    told = practice.run(*verb.split()[1:], ok=(0, *STATE_EXIT.values())).stdout
                    lines = told.replace(mount, ".../BitDust").splitlines(keepends=True)
                    said += "".join(line for line in lines if rest in line)
                else:
                    said += run("sh", "-c", part)
            return said

        (start, _), *steps, (stop, _) = session()
        assert (start, stop) == ("tools/start ~/BitDust", "tools/start --stop")
        assert len(steps) > 6
        for command, printed in steps:
            if command.startswith("export "):
                continue
            if command.startswith("sleep "):
                practice.run("config", "set", "patience", PATIENCE)
                practice.remount()
            command = command.removeprefix("sleep 60; ")
            if command.startswith("bitdustfs status "):  # which says it a moment later
                wait_until(f"{command} says {printed}", lambda c=command, p=printed: is_as_printed(do(c), p), HANGS_S)
            else:
                said = do(command)
                assert is_as_printed(said, printed), f"{command}\n{said}"
