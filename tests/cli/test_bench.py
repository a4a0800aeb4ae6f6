"""`tools/bench` does all its work on a plain directory, and does not accept wrong bytes. Nothing is timed here."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
ROWS = {
    *("write_fsync", "write_sync", "read_cold", "read_warm"),
    *("small_cp", "small_sync", "small_read", "small_rm"),
    *("rsync_first", "rsync_again", "find_cold", "find_warm", "git_clone", "git_status", "git_status_cold"),
    *("random_read_cold", "random_read_local", "random_read_warm", "random_write", "random_fsync"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with what real trees have."""
    place = tmp_path / "tree"
    (place / "deep" / "er").mkdir(parents=True)
    (place / "deep" / "er" / "leaf").write_text("leaf\n")
    (place / "empty").touch()
    (place / "link").symlink_to("deep")
    (place / "__pycache__").mkdir()
    (place / "__pycache__" / "left out").touch()
    return place


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOLS / "bench", *words], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_bench_measures_everything_on_a_plain_directory(tmp_path: Path, tree: Path) -> None:
    place, written = tmp_path / "place", tmp_path / "bench.json"
    place.mkdir()

    done = bench(place, "--size", "1M", "--runs", "1", "--files", "20", "--tree", tree, "--json", written)

    assert done.returncode == 0, done.stderr
    report = json.loads(written.read_text())
    assert report["failed"] is None
    assert {row["row"] for row in report["rows"]} == ROWS - _left_out(done.stderr)
    for row in report["rows"]:
        (value,) = row["samples"][str(place)]
        assert value > 0
        assert f"{row['shown']} " in done.stdout
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_bench_runs_only_what_is_asked_for(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"

    done = bench(tmp_path, "--size", "64K", "--runs", "2", "--only", "read", "--json", written)

    assert done.returncode == 0, done.stderr
    samples = {row["row"]: row["samples"][str(tmp_path)] for row in json.loads(written.read_text())["rows"]}
    assert {row: len(values) for row, values in samples.items()} == {"read_cold": 2, "read_warm": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--only", "reed"], ["--size", "12parsec"], ["--runs", "0"], ["/no/such/directory"]]
)
def test_bench_refuses_what_cannot_work(tmp_path: Path, words: list[str]) -> None:
    done = bench(*(words if words[0].startswith("/") else [tmp_path, *words]))

    assert done.returncode == 2
    assert "error:" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--held", "12parsec"], ["--suppliers", "0"], ["--read", "1"]])
def test_bench_of_repair_refuses_what_cannot_work(words: list[str]) -> None:
    done = bench("rebuild", *words)

    assert done.returncode == 2
    assert "error:" in done.stderr


@pytest.mark.parametrize("stage", ["read", "random"])
def test_bench_does_not_accept_a_wrong_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    sides, system, work = (importlib.import_module(f"bench_{part}") for part in ("sides", "system", "work"))
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()

    def flip_one_bit(text: str) -> None:
        if text.endswith(stage):
            content = bytearray((place / "big").read_bytes())
            content[-1] ^= 1
            (place / "big").write_bytes(content)

    load = work.Load(size_bytes=1 << 20, files=1, operations=4, tree=tmp_path, stages=frozenset({stage}))
    run = work.Run(sides.Side("plain", tmp_path), load, place, temporary, flip_one_bit)

    with pytest.raises(system.WrongBytes, match="wrong bytes"):
        list(run.samples())


@pytest.mark.slow
def test_bench_tells_what_the_mounting_process_spends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    sides, system, work = (importlib.import_module(f"bench_{part}") for part in ("sides", "system", "work"))

    class Mounted(sides.Side):  # type: ignore[misc, name-defined]
        """A plain directory with a process that could serve it: this one."""

        def daemons(self) -> object:
            return system.Daemons(mount=(os.getpid(),))

    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    load = work.Load(size_bytes=4096, files=50, operations=1, tree=TOOLS, stages=frozenset({"small", "rsync"}))
    if shutil.which("rsync") is None:
        load = dataclasses.replace(load, stages=frozenset({"small"}))
    rows = dict(work.Run(Mounted("here", tmp_path), load, place, temporary, lambda _text: None).samples())
    wanted = {"small_cpu", "small_rm_cpu"} | ({"rsync_cpu"} if "rsync" in load.stages else set())
    assert wanted <= rows.keys() <= work.ROWS.keys()
    assert all(0 <= rows[row] < 100 for row in wanted)


def _left_out(complaints: str) -> set[str]:
    missing = [name for name in ("rsync", "git") if f"{name} is not installed" in complaints]
    return {row for row in ROWS if row.startswith(tuple(f"{name}_" for name in missing))}
