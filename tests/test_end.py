"""A run of tests that is told to end takes down what it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mount.practice import wait_until

ROOT = Path(__file__).resolve().parents[1]
STORY = """
import time
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def swarm():
    Path("up").touch()
    yield
    Path("down").touch()

def test_waits(swarm):
    Path("waits").touch()
    HOW

def test_next(swarm):
    Path("went on").touch()
"""
WAITS = "time.sleep(600)"
CATCHES = """
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers"),
    [
        pytest.param(CATCHES, (), id="alone"),
        pytest.param(WAITS, ("-n", "1"), id="with a worker", marks=pytest.mark.long),  # has 10 s for it
    ],
)
def test_run_that_gets_sigterm_takes_its_swarm_down(tmp_path: Path, how: str, workers: Sequence[str]) -> None:
    (tmp_path / "test_story.py").write_text(STORY.replace("HOW", how))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(tmp_path), "-s", *workers],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    ) as run:
        wait_until("it waits", lambda: (tmp_path / "waits").exists())
        run.send_signal(signal.SIGTERM)
    assert (tmp_path / "down").exists()
    assert not (tmp_path / "went on").exists()
