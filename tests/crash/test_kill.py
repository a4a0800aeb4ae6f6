"""`kill -9` of the mounting process at named points of its work, and what a mount shows afterwards.

The points are all that the process does to its disk and all that it answers: before and after each write, sync,
change of a name, commit, acknowledgement of a supplier, and reply to the kernel. Which there are is not listed
here: a first run of each workload finds out.
"""

from __future__ import annotations

import pytest

from tests.crash.harness import Yard, check_mounted, run_workload
from tests.crash.workloads import WORKLOADS

SOME = [
    ("append_log", "sync spool/*/*", 2, "before"),
    ("append_log", "end harden", 3, "before"),
    ("careless_editor", "end rename", 5, "before"),
    ("cp", "make spool/*/*", 2, "after"),
    ("editor", "begin commit", 2, "before"),
    ("git", "end fsync", 3, "after"),
    ("published", "end put", 2, "before"),
    ("sqlite_wal", "sync catalog.db-wal", 6, "before"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("workload", "point", "hit", "when"), SOME)
def test_mount_keeps_its_promises_when_it_is_killed(
    yard: Yard, workload: str, point: str, hit: int, when: str
) -> None:
    run = run_workload(yard, workload, order=(point, hit, when))
    assert run.killed, f"{point} was not passed {hit} times"
    assert check_mounted(yard, run) is None


@pytest.mark.long
@pytest.mark.parametrize("workload", WORKLOADS)
def test_mount_keeps_its_promises_when_it_is_killed_at_any_point(yard: Yard, workload: str) -> None:
    passed = yard.recorded(workload).points
    killed, faults = set(), []
    for point, hits in passed.items():
        for hit, when in ((-(-hits // 2), "before"), (1, "after")):
            run = run_workload(yard, workload, order=(point, hit, when))
            killed |= {point} if run.killed else set()
            fault = check_mounted(yard, run)
            if fault is not None:
                faults.append(f"{when} {point}, {hit} of {hits}: {fault}")
            run.case.discard()
    assert faults == []
    assert len(killed) > 0.8 * len(passed), "some are not passed each time"
