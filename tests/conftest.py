"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from types import FrameType

import pytest
from hypothesis import settings

# a busy machine is not a failure: no example has a deadline
settings.register_profile("long", deadline=None)
settings.register_profile("short", deadline=None, max_examples=50)
settings.load_profile("long")

# hundreds of processes are started: with bytecode kept none has to compile everything again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Try half as many examples in the runs that leave soak sizes out."""
    if "not long" in config.getoption("markexpr"):
        settings.load_profile("short")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let SIGTERM end a run as Ctrl-C does: what its fixtures started is taken down."""

    def end(_number: int, _frame: FrameType | None) -> None:
        session.shouldstop = "SIGTERM"  # also where a verb that is called here catches what comes next
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


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
