"""Settings of the whole suite."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# a busy machine is not a failure: no example has a deadline
settings.register_profile("bitdustfs", deadline=None)
settings.load_profile("bitdustfs")

# what is made once for many tests, and would be made again by each worker that gets some of them
_SHARED = ("rough_swarm", "mount", "yard")

# hundreds of processes are started: with bytecode kept none has to compile everything again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-seed", type=int, help="the one seed for random steps on a mount; what fails is made shorter"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For several workers: keep together what shares something costly, and begin with what takes longest."""
    if not getattr(config.option, "loadgroup", False):
        return
    slow = set[str]()
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        group = next((name for name in _SHARED if name in fixtures), f"{item.path.parent.name}/{item.path.name}")
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("slow"):
            slow.add(group)
    items.sort(key=lambda item: item.path.parent.name, reverse=True)  # `mount` first, `core` and `cli` last
    items.sort(key=lambda item: _group(item) not in slow)


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])
