"""Settings of the whole suite."""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from hypothesis import settings

# a busy machine is not a failure: no example has a deadline
settings.register_profile("bitdustfs", deadline=None)
settings.load_profile("bitdustfs")

# hundreds of processes are started: with bytecode kept none has to compile everything again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-seed", type=int, help="the one seed for random steps on a mount; what fails is made shorter"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For several workers: begin with what takes longest."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    storeys = ("mount", "crash", "engine")  # by what their files take; a file goes to one worker, as a whole
    places = {name: number for number, name in enumerate(storeys)}

    def place(item: pytest.Item) -> tuple[int, int]:
        return places.get(item.path.parent.name, len(places)), -slow[item.path]

    items.sort(key=lambda item: (item.path not in slow, *place(item)))
