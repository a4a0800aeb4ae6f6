"""Suppliers die for good, and the volume heals itself: with real processes, on the practice swarm's spares."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mount.practice import Practice, wait_until
from tests.mount.support import HANGS_S
from tests.mount.trees import real_tree, run

pytestmark = pytest.mark.slow


def is_whole(practice: Practice) -> bool:
    told = practice.status()
    return told["missing_fragments"] == 0 and told["held"] == told["wanted"] == 5 and not told["files_local"]


def test_two_suppliers_killed_under_rsync_are_replaced_by_the_spares_and_two_more_may_die(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source", 400)
    with Practice(tmp_path / "swarm", spares=2, patience="6s") as practice:
        copying = subprocess.Popen(["rsync", "-a", f"{source}/", str(practice.path / "tree")])
        practice.run("demo", "kill", "1")
        practice.run("demo", "kill", "3")
        assert copying.wait(timeout=HANGS_S) == 0
        wait_until("the spares hold what the dead ones held", lambda: is_whole(practice))
        states = {each["label"]: each["state"] for each in practice.status()["suppliers"]}
        assert states == {f"supplier{n}": "lost" if n in (1, 3) else "online" for n in range(1, 8)}
        practice.sync()
        practice.forget()
        practice.run("demo", "kill", "2")
        practice.run("demo", "kill", "4")
        run("diff", "-r", source, practice.path / "tree")


@pytest.mark.long
@pytest.mark.long
def test_suppliers_that_stop_for_longer_than_a_ping_are_waited_for(tmp_path: Path) -> None:
    with Practice(tmp_path / "swarm", spares=2, patience="3m") as practice:
        (practice.path / "file").write_bytes(bytes(100_000))
        practice.sync()
        with practice.stopped():
            wait_until("all are silent", lambda: not any(s["answers"] for s in practice.status()["suppliers"]), 120)
        wait_until("all are back", lambda: all(s["answers"] for s in practice.status()["suppliers"]))
        states = [each["state"] for each in practice.status()["suppliers"]]
        assert states == ["online"] * 5 + ["candidate"] * 2
        assert is_whole(practice)
