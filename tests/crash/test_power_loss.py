"""Power losses: the disk under a mount drops, tears and reorders what was not synced, and the mount comes back.

A workload runs once and to its end; then any moment of it can be the one at which the power went, as often as wanted.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from tests.crash.harness import TRACE, Watched, Yard, check_crash_of_recovery, faults_of_crashes, run_by_hand
from tests.crash.loss import Manner
from tests.crash.oplog import Did
from tests.crash.workloads import WORKLOADS
from tests.mount.support import code_of

CONTENT = random.Random(9).randbytes(50_000)
_LOSSES = (Manner.ORDERED, Manner.STRICT)
ENOUGH_PAIRS = 100  # of a workload and a point of it that is worth a kill


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_promises_survive_a_crash_at_random_moments(yard: Yard, workload: str) -> None:
    run = yard.recorded(workload)
    dice = random.Random(workload)
    moments = [run.length, *(dice.randint(run.started, run.length) for _ in range(5))]
    assert faults_of_crashes(yard, run, moments, tuple(Manner)) == []


@pytest.mark.slow
def test_there_are_enough_points_in_all_workloads(yard: Yard) -> None:
    assert sum(len(yard.recorded(workload).points) for workload in WORKLOADS) >= ENOUGH_PAIRS


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["overwrite", "published"])
def test_start_after_a_crash_may_crash_as_well(yard: Yard, workload: str) -> None:
    run = yard.recorded(workload)
    upto = (run.started + 2 * run.length) // 3
    assert check_crash_of_recovery(yard, run, upto, Manner.STRICT, step=30) == []


@pytest.mark.long
@pytest.mark.parametrize("workload", WORKLOADS)
def test_start_after_any_crash_may_crash_at_any_moment(yard: Yard, workload: str) -> None:
    run = yard.recorded(workload)
    for upto in range(run.started, run.length + 1, max(1, (run.length - run.started) // 5)):
        for manner in Manner:
            assert check_crash_of_recovery(yard, run, upto, manner, step=4) == []


@pytest.mark.long
@pytest.mark.parametrize("workload", WORKLOADS)
def test_promises_survive_a_crash_before_and_after_each_step(yard: Yard, workload: str) -> None:
    run = yard.recorded(workload)
    assert faults_of_crashes(yard, run, range(run.started, run.length + 1), tuple(Manner)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("point", "others"), [("sync spool/*/*", None), ("sync catalog.db-wal", errno.EROFS)])
def test_failed_fsync_is_told_and_never_succeeds_by_another_try(yard: Yard, point: str, others: int | None) -> None:
    case = yard.disk.case()
    with Watched(yard, case.path, None, TRACE) as mount:
        (mount.path / "before").write_bytes(CONTENT)
        _fsync(mount.path / "before")
        case.fail_at(point, 1, errno.EIO)
        (mount.path / "file").write_bytes(CONTENT)
        codes = {code_of(lambda: _fsync(mount.path / "file")) for _ in range(3)}
        assert (mount.path / "file").read_bytes() == CONTENT
        assert code_of(lambda: (mount.path / "after").write_bytes(CONTENT)) == others, "all share the catalog's log"
        if others is None:
            _fsync(mount.path / "after")
    assert codes == {errno.EIO}
    run = run_by_hand(case)
    first = next(n for n, entry in enumerate(case.entries()) if entry.did is Did.BAD_SYNC)
    assert faults_of_crashes(yard, run, range(first, run.length + 1, 3), _LOSSES) == []


@pytest.mark.slow
def test_file_that_was_opened_to_be_written_anew_may_be_found_empty(yard: Yard) -> None:
    case = yard.disk.case()
    with Watched(yard, case.path, None, TRACE) as mount:
        for name in ("file", "other"):
            (mount.path / name).write_bytes(CONTENT)
        with (mount.path / "file").open("wb", buffering=0) as file:
            _fsync(mount.path / "other")  # commits that too
            between = len(case.entries())
            file.write(CONTENT)
    run = run_by_hand(case)
    assert faults_of_crashes(yard, run, (between, run.length), tuple(Manner)) == []


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
