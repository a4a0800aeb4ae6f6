"""`tools/bench links`: its links are what they are said to be, and nothing of them is left, however it ends."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PATIENCE_S = 120
SMALL = ("--size", "16M", "--runs", "1", "--link", "200/2", "--slow", "20/10")


def start(temporary: Path, *words: str | Path) -> subprocess.Popen[str]:
    line: list[str | Path] = [sys.executable, TOOLS / "bench", "links", *SMALL, "--tmp", temporary, *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def processes_in(temporary: Path) -> list[int]:
    """Those whose arguments name the directory, whatever namespace they are in; but for the benchmark itself."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(temporary) in arguments and b"--home" in arguments:
            found.append(int(entry.name))
    return found


@pytest.mark.long
def test_bench_of_links_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    written = tmp_path / "links.json"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    networks = set(os.listdir("/sys/class/net"))

    out, complaints = start(temporary, "--json", written).communicate(timeout=PATIENCE_S)

    report = json.loads(written.read_text())
    assert report["failed"] is None, complaints
    rows = {row["row"]: row["median"]["bitdustfs"] for row in report["rows"]}
    assert rows.keys() == _rows()
    assert all(value > 0 for value in rows.values())
    assert rows["links_write_sent"] < 1.2 and rows["links_read_received"] < 1.6  # real bytes went over the links
    assert rows["links_write_sent"] >= 1 and rows["links_read_received"] >= 1
    assert rows["links_plain_up"] < 1.05 and rows["links_plain_down"] < 1.05  # no quicker than they are
    assert "plain TCP to 5 of 200 Mbit/s, 2 ms" in out
    assert set(os.listdir("/sys/class/net")) == networks
    assert not processes_in(temporary) and not os.listdir(temporary)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_bench_of_links_that_is_stopped_leaves_no_process_and_no_link(tmp_path: Path, number: signal.Signals) -> None:
    networks = set(os.listdir("/sys/class/net"))
    process = start(tmp_path)
    try:
        until(lambda: any("mount" in words_of(pid) for pid in processes_in(tmp_path)), "it mounts")
        process.send_signal(number)
        _, complaints = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    until(lambda: not processes_in(tmp_path), "all processes have ended")
    assert set(os.listdir("/sys/class/net")) == networks
    if number != signal.SIGKILL:  # then nobody was left who could
        assert process.returncode == 130, complaints
        assert "interrupted" in complaints
        assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--link", "100"], ["--slow", "0/5"], ["--code", "3/6"], ["--suppliers", "0"], ["--compare", "/none"]]
)
def test_bench_of_links_refuses_what_cannot_work(words: list[str]) -> None:
    line: list[str | Path] = [sys.executable, TOOLS / "bench", "links", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert done.returncode == 2
    assert "error:" in done.stderr


def words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"after {PATIENCE_S} s still not: {what}"
        time.sleep(0.05)


def _rows() -> set[str]:
    sys.path.insert(0, str(TOOLS))
    try:
        return set(importlib.import_module("bench_links").ROWS)
    finally:
        sys.path.remove(str(TOOLS))
