"""`kill -9` of the mounting process and of suppliers while others write (I1, I2)."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home
from tests.mount import scribe
from tests.mount.practice import Practice, wait_until

SCRIBES = 3
MOST_LOST = 2  # n - k of the swarm
ENDS_S = 60  # whoever writes to a dead mount is told so
pytestmark = pytest.mark.slow


# -- what is there ------------------------------------------------------------------------------------------


def asked_of_catalog(practice: Practice, sql: str) -> list[tuple[object, ...]]:
    """What is committed, seen by another process."""
    with closing(sqlite3.connect(f"file:{Home(practice.home).catalog}?mode=ro", uri=True)) as catalog:
        return catalog.execute(sql).fetchall()


def known_fragments(practice: Practice) -> Mapping[str, int]:
    """How many fragments each supplier holds, as the catalog knows."""
    both = "(SELECT supplier, state FROM r_fragment UNION ALL SELECT supplier, state FROM l_fragment)"
    sql = f"SELECT label, count(*) FROM {both} JOIN r_supplier USING (supplier) WHERE state = 1 GROUP BY supplier"
    return {str(label): int(str(count)) for label, count in asked_of_catalog(practice, sql)}


def charged_fragments(practice: Practice) -> Mapping[str, int]:
    """How many each holds by the count that `df` goes by."""
    sql = "SELECT label, fragments FROM l_usage JOIN r_supplier USING (supplier) WHERE fragments > 0"
    rows = asked_of_catalog(practice, sql)
    return {str(label): int(str(count)) for label, count in rows}


def stored_fragments(practice: Practice) -> Mapping[str, int]:
    """How many fragments lie on the shelf of each supplier, without the trash."""
    found: Counter[str] = Counter()
    for number in range(1, 6):
        for path in Home(practice.supplier_home(number)).shelf.glob("*/[0-9a-f][0-9a-f]/*"):
            found[f"supplier{number}"] += path.is_file()
    return dict(found)


# -- single cases -------------------------------------------------------------------------------------------


def test_mount_of_a_killed_process_is_dead_whatever_the_kernel_still_knows(rough_swarm: Practice) -> None:
    os.stat(rough_swarm.path)
    rough_swarm.kill_mount()
    rough_swarm.mount()
    assert not mounts.is_dead(str(rough_swarm.path))


def test_what_nobody_fsynced_is_committed_by_itself(rough_swarm: Practice) -> None:
    path = rough_swarm.path / "nobody-fsynced-this"
    rough_swarm.ask("cache-drop")
    rough_swarm.ask("cache-drop")  # commits with nothing in it
    path.write_bytes(b"small")
    sql = "SELECT 1 FROM r_name JOIN l_inline USING (ino) WHERE name = CAST('nobody-fsynced-this' AS BLOB)"
    wait_until("it is committed", lambda: asked_of_catalog(rough_swarm, f"{sql} AND length(content) = 5"))
    rough_swarm.kill_mount()
    rough_swarm.mount()
    assert path.read_bytes() == b"small"


# -- under load ---------------------------------------------------------------------------------------------


class Office:
    """Scribes at work in a directory each, and what they said is safe."""

    def __init__(self, practice: Practice, name: str, tmp_path: Path) -> None:
        self._directories = [practice.path / f"{name}-{number}" for number in range(SCRIBES)]
        self._said = [tmp_path / f"said-{number}" for number in range(SCRIBES)]
        for directory, said in zip(self._directories, self._said, strict=True):
            directory.mkdir()
            said.touch()

    def rounds(self, number: int) -> int:
        """How many rounds of a scribe are safe."""
        return self._said[number].read_bytes().count(b"\n")

    @property
    def total(self) -> int:
        return sum(map(self.rounds, range(SCRIBES)))

    @contextmanager
    def open(self) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
        """Let them write. At the end they have ended, or are killed."""
        running: list[subprocess.Popen[bytes]] = []
        try:
            for number, directory in enumerate(self._directories):
                words = [str(directory), str(number), str(self.rounds(number))]
                with self._said[number].open("ab") as said:
                    command = [sys.executable, "-m", "tests.mount.scribe", *words]
                    running.append(subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE))
            yield running
        finally:
            for process in running:
                process.kill()
                process.communicate()

    def check(self) -> None:
        """What was said to be safe is there, and every file is one whole version."""
        for number, directory in enumerate(self._directories):
            safe = self.rounds(number)
            log = (directory / "log").read_bytes() if safe else b""
            assert log[: safe * len(scribe.line(0))] == b"".join(map(scribe.line, range(safe)))
            for last in range(max(0, safe - scribe.FILES), safe):
                content = (directory / scribe.name(last)).read_bytes()
                shown = int(content.partition(b"\n")[0])
                assert shown in (last, last + scribe.FILES), f"{directory} shows round {shown}, not {last}"
                assert content == scribe.version(number, shown)


@pytest.mark.parametrize(
    ("seed", "kills"), [(1, 3), *(pytest.param(seed, 20, marks=pytest.mark.long) for seed in (2, 3, 4))]
)
def test_what_was_fsynced_survives_kills_of_mount_and_suppliers_under_load(
    rough_swarm: Practice, tmp_path: Path, seed: int, kills: int
) -> None:
    dice, office, lost = random.Random(seed), Office(rough_swarm, f"office-{seed}", tmp_path), set[int]()
    for _ in range(kills):
        with office.open() as scribes:
            for _ in range(dice.randint(1, 3)):
                goal = office.total + dice.randint(5, 60)
                wait_until("the scribes go on", lambda goal=goal: office.total >= goal)
                if len(lost) < MOST_LOST:
                    number = dice.choice([n for n in range(1, 6) if n not in lost])
                    rough_swarm.kill_supplier(number)
                    lost.add(number)
                else:
                    rough_swarm.ask("sync", timeout=dice.random() / 10)
            rough_swarm.kill_mount()
            for process in scribes:
                process.wait(ENDS_S)
        rough_swarm.mount()
        office.check()
        if dice.random() < 0.5:
            rough_swarm.revive(*lost)
            rough_swarm.sync()
            lost.clear()
    rough_swarm.revive(*lost)
    rough_swarm.sync()
    rough_swarm.forget()
    office.check()

    def is_settled() -> bool:
        nothing_waits = not asked_of_catalog(rough_swarm, "SELECT 1 FROM l_upload")
        known = known_fragments(rough_swarm)
        return nothing_waits and stored_fragments(rough_swarm) == known == charged_fragments(rough_swarm)

    wait_until("what was given up is released, and nothing is counted twice", is_settled)
