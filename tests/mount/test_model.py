"""The real mount against a model: random steps, cache drops, crashes, remounts and dead suppliers (I1, I2).

A failure prints its seed and step; `pytest tests/mount/test_model.py -k random --model-seed N` does it again, makes
the list of steps shorter, and prints it as an example to be kept below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.mount.ordeal import Ordeal, run, shortest
from tests.mount.practice import Practice
from tests.mount.tree_dice import Dice
from tests.mount.tree_model import EXCHANGE, Fill
from tests.mount.tree_steps import Step, step

SEED, STEPS, LONG_STEPS = 0, 600, 2000
LONG_SEEDS = range(100, 108)
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _modes_as_asked() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def ordeal(rough_swarm: Practice, request: pytest.FixtureRequest) -> Iterator[Ordeal]:
    made = Ordeal(rough_swarm, request.node.name[-100:])
    yield made
    made.end()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        asked = metafunc.config.getoption("model_seed")
        long = [pytest.param(seed, LONG_STEPS, marks=pytest.mark.long) for seed in LONG_SEEDS]
        metafunc.parametrize(("seed", "steps"), [(SEED, STEPS), *long] if asked is None else [(asked, LONG_STEPS)])


def test_mount_answers_as_a_model_does_to_random_steps(
    rough_swarm: Practice, seed: int, steps: int, request: pytest.FixtureRequest
) -> None:
    dice, count = Dice(seed), iter(range(steps))
    failed = run(rough_swarm, f"seed-{seed}", lambda model: None if next(count, None) is None else dice.next(model))
    if failed is not None and request.config.getoption("model_seed") is not None:
        failed = shortest(rough_swarm, f"shorter-{seed}", failed)
    if failed is not None:
        pytest.fail(f"seed {seed}, {failed}", pytrace=False)


CREATE = os.O_RDWR | os.O_CREAT
EXAMPLES = {
    # the overwriting is in the spool before the commit that would also tell of the removal
    "overwritten bytes may survive what came before them": [
        step("open", 0, "a", CREATE, 0o644),
        step("pwrite", 0, 0, Fill(1, 43_438)),
        step("open", 1, "b", CREATE, 0o644),
        step("drop"),
        step("unlink", "b"),
        step("pwrite", 0, 1723, Fill(2, 290)),
        step("utime", "a", 317_816_270_922_407_457),
        step("ftruncate", 0, 3155),
        step("pwrite", 0, 3155, Fill(3, 36_186)),
        step("kill"),
    ],
    # bytes cut off must not come back from the published version, here or after the cache was dropped
    "a file cut and extended again reads as zeros": [
        step("open", 0, "a", CREATE, 0o644),
        step("pwrite", 0, 0, Fill(1, 600_000)),
        step("sync"),
        step("ftruncate", 0, 300_000),
        step("ftruncate", 0, 700_000),
        step("drop"),
        step("pread", 0, 0, 700_000),
        step("kill"),
        step("sync"),
        step("drop"),
        step("pread", 0, 0, 700_000),
    ],
    "a file without a name lives as long as it is open": [
        step("open", 0, "a", CREATE, 0o644),
        step("pwrite", 0, 262_100, Fill(1, 100)),
        step("unlink", "a"),
        step("push"),
        step("pwrite", 0, 16_380, Fill(2, 10)),
        step("drop"),
        step("pread", 0, 0, 300_000),
        step("kill"),
    ],
    # what it replaces is kept until it is published, and must not be seen
    "an unpublished file replaces a published one": [
        step("open", 0, "a", CREATE, 0o644),
        step("pwrite", 0, 0, Fill(1, 20_000)),
        step("link", "a", "c"),
        step("sync"),
        step("open", 1, "b", CREATE, 0o600),
        step("pwrite", 1, 0, Fill(2, 30_000)),
        step("rename", "b", "a", 0),
        step("rename", "a", "c", EXCHANGE),
        step("stat", "a"),
        step("kill"),
        step("unlink", "c"),
        step("sync"),
        step("remount"),
    ],
}


@pytest.mark.parametrize("steps", EXAMPLES.values(), ids=[name.replace(" ", "-") for name in EXAMPLES])
def test_mount_answers_as_a_model_does_to_kept_examples(ordeal: Ordeal, steps: list[Step]) -> None:
    ordeal.do_all(steps)
