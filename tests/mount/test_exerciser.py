"""Processes at work on files of a mount, every byte compared, while blocks leave and the cache is dropped (I1)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.mount.exerciser import MOST_BYTES
from tests.mount.practice import Practice

PROCESSES = 4
SHARE_BYTES = 61 * 4096  # of one shared file: whole pages, but chunks belong to two processes
EVERY_S = 0.2  # everything leaves and is dropped so often: the processes shall meet it, not wait for it
PATIENCE_S = 250
pytestmark = pytest.mark.slow
SIZES = [(1, 250), *(pytest.param(seed, 8000, marks=pytest.mark.long) for seed in (2, 3, 4))]


@contextmanager
def at_work(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run; whoever still does in the end is killed."""
    running: list[subprocess.Popen[str]] = []
    try:
        for words in commands:
            command = [sys.executable, "-m", "tests.mount.exerciser", *words]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def work(practice: Practice, commands: list[list[str]]) -> None:
    """Run exercisers to their end; meanwhile everything dirty leaves, and everything clean is dropped."""
    end = time.monotonic() + PATIENCE_S
    with at_work(commands) as running:
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            practice.ask("sync", timeout=0.05)
            practice.ask("cache-drop")
            time.sleep(EVERY_S)
        for process in running:
            said, _ = process.communicate(timeout=1)
            assert process.returncode == 0, said


@pytest.mark.parametrize(("seed", "count"), SIZES)
def test_processes_read_what_they_wrote_to_files_of_their_own(
    rough_swarm: Practice, tmp_path: Path, seed: int, count: int
) -> None:
    files = [rough_swarm.path / f"own-{seed}-{number}" for number in range(PROCESSES)]
    commands = [
        [str(file), str(seed * 100 + number), str(count), str(tmp_path / file.name)]
        for number, file in enumerate(files)
    ]
    work(rough_swarm, commands)
    rough_swarm.sync()
    rough_swarm.forget()
    for file in files:
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()
        assert file.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize(("seed", "count"), SIZES)
def test_processes_read_what_they_wrote_to_parts_of_one_file(
    rough_swarm: Practice, tmp_path: Path, seed: int, count: int
) -> None:
    file = rough_swarm.path / f"shared-{seed}"
    file.touch()
    bounds = [number * SHARE_BYTES for number in range(PROCESSES + 1)]
    os.truncate(file, bounds[-1])
    parts = [(str(first), str(end)) for first, end in pairwise(bounds)]
    commands = [
        [str(file), str(seed * 100 + number), str(count), str(tmp_path / str(number)), *part]
        for number, part in enumerate(parts)
    ]
    work(rough_swarm, commands)
    rough_swarm.sync()
    rough_swarm.forget()
    assert file.read_bytes() == b"".join((tmp_path / str(number)).read_bytes() for number in range(PROCESSES))
