"""Settings of the whole suite."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings

from tests import still_time

# a busy machine is not a failure: no example has a deadline
settings.register_profile("long", deadline=None)
settings.register_profile("short", deadline=None, max_examples=30)
settings.register_profile("fast", deadline=None, max_examples=10)
settings.load_profile("long")

still_time.install()

gc.set_threshold(20_000, 50, 100)  # whole worlds live in one test: looking through them often costs a twentieth

# hundreds of processes are started: with bytecode kept none has to compile everything again
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


_FAST = "not slow"  # in what `tools/test fast` asks for
_SLOW_S = 0.5  # what takes longer in such a run is told, to be marked: 0.1 s of a processor are slow
_SLOW_STOREYS = ("net",)  # directories of which nothing is fast
WAITING_STOREYS = ("net", "mount", "crash")  # which wait more than they compute; by what their files take
_WHOLLY_SLOW = "\npytestmark = pytest.mark.slow\n"


def pytest_configure(config: pytest.Config) -> None:
    """Try a third as many examples in the runs that leave soak sizes out, and few in the fast ones."""
    chosen = config.getoption("markexpr")
    if "not long" in chosen:
        settings.load_profile("fast" if _FAST in chosen else "short")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even load what a fast run leaves out as a whole."""
    if _FAST not in config.getoption("markexpr"):
        return None
    if collection_path.suffix != ".py":
        return collection_path.name in _SLOW_STOREYS or None
    return _WHOLLY_SLOW in collection_path.read_text() or None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Do not even make the cases of a test that a run leaves out: they are half of all."""
    if "not long" not in metafunc.config.getoption("markexpr"):
        return
    marks = metafunc.definition.own_markers
    for at, mark in enumerate(marks):
        if mark.name == "parametrize" and len(mark.args) == 2 and isinstance(mark.args[1], list):
            kept = [case for case in mark.args[1] if "long" not in (each.name for each in getattr(case, "marks", ()))]
            if kept and not isinstance(mark.kwargs.get("ids"), list | tuple):
                marks[at] = pytest.mark.parametrize(mark.args[0], kept, **mark.kwargs).mark


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what made a fast run slower."""
    if _FAST not in config.getoption("markexpr"):
        return
    passed = [report for report in terminalreporter.getreports("passed") if report.duration > _SLOW_S]
    for report in sorted(passed, key=lambda report: -report.duration)[:10]:
        terminalreporter.write_line(f"{report.duration:5.1f} s: {report.nodeid} (slow? then mark it so)")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let SIGTERM end a run as Ctrl-C does: what its fixtures started is taken down."""

    def end(_number: int, _frame: FrameType | None) -> None:
        session.shouldstop = "SIGTERM"  # also where a verb that is called here catches what comes next
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """For several workers: load what will be collected, each from another place on.

    After a clean clone every file has to be compiled, which takes ten times as long as loading it. All workers begin
    at the same moment: in one order each of them would compile everything.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker or session.config.args != session.config.getini("testpaths"):
        return
    root = session.config.rootpath
    found = [path for place in session.config.args for path in sorted((root / place).rglob("test_*.py"))]
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in found
        if not any(pytest_ignore_collect(each, session.config) for each in (path.parent, path))
    ]
    begin = len(names) * int(worker) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for name in names[begin:] + names[:begin]:
        with suppress(Exception):  # it is told, with all that belongs to it, when the file is collected
            import_module(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-seed", type=int, help="the one seed for random steps on a mount; what fails is made shorter"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For several workers: begin with what takes longest."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    storeys = (*WAITING_STOREYS, "engine")  # by what their files take; a file goes to one worker, as a whole
    places = {name: number for number, name in enumerate(storeys)}

    def place(item: pytest.Item) -> tuple[int, int]:
        return places.get(item.path.parent.name, len(places)), -slow[item.path]

    items.sort(key=lambda item: (item.path not in slow, *place(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let workers wait and compute at the same time."""
    if config.getoption("dist") != "loadfile":
        return None
    return import_module("tests.sharing").Sharing(config, log)  # not where xdist is not wanted
