"""Stories of machines come again: each process tells the same one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from tests.engine.same_schedule import run
from tests.engine.test_three_machines_random import tell as tell_of_three
from tests.engine.test_two_machines_random import tell as tell_of_two

TELLS = {"two": tell_of_two, "three": tell_of_three}
STEPS = 15


def heard(machines: str, seed: int, schedule: int) -> str:
    """A digest of all that the network carries in a story."""
    with tempfile.TemporaryDirectory() as directory:
        told = run(schedule, partial(TELLS[machines], seed, STEPS, Path(directory), leases=True))
    return told.listening.digest()


def heard_elsewhere(machines: str, seed: int, schedule: int, *, hashes: int) -> str:
    """The same, in a process of its own, where other hashes order sets."""
    code = f"from {__name__} import heard; print(heard({machines!r}, {seed}, {schedule}))"
    variables = {**os.environ, "PYTHONHASHSEED": str(hashes), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "machines,seed", [("two", 3), *[pytest.param(n, s, marks=pytest.mark.long) for n in TELLS for s in (1, 2)]]
)
def test_a_story_is_the_same_in_each_process_whatever_the_hashes(machines: str, seed: int) -> None:
    first = heard_elsewhere(machines, seed, 1, hashes=1)
    assert first == heard_elsewhere(machines, seed, 1, hashes=2)
    assert first != heard_elsewhere(machines, seed, 2, hashes=1), "another schedule shows"
