"""`status`, `sync` and `cache drop` against a stand-in for the serving process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from bitdustfs.cli.common import moment
from bitdustfs.cli.snapshot import lines as snapshot_lines
from bitdustfs.cli.status import STATE_EXIT, lines, supplier_line
from bitdustfs.cli.sync import EXIT_INCOMPLETE, Pace, exit_code, sentence
from bitdustfs.core.report import (
    SnapshotReport,
    SnapshotsReport,
    StatusReport,
    SupplierReport,
    SyncProgress,
    SyncReport,
    ViewReport,
    WithoutReport,
)
from bitdustfs.edges import control_server
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.errors import EXIT, Kind
from bitdustfs.model import FileState
from tests.cli.conftest import Call, Said


def status_report(state: FileState, *, margin: int = 2, practice: bool = False, **changes: object) -> StatusReport:
    report = StatusReport(
        state=state.value,
        path="/",
        practice=practice,
        code="3/5",
        codes={"3/5": 1},
        unlike_blocks=0,
        recode_blocks=0,
        recode_bytes=0,
        files=2,
        bytes=2048,
        bytes_safe=1024,
        bytes_placed=0,
        bytes_degraded=0,
        bytes_lost=0,
        files_local=1,
        bytes_local=1024,
        blocks=1,
        held=5,
        needed=3,
        wanted=5,
        margin=margin,
        missing_fragments=0,
        missing_bytes=0,
        repairing=0,
        repair_bytes_per_s=0.0,
        repair_eta_s=0,
        refusing=[],
        snapshots=0,
        snapshot_bytes=0,
        forks=0,
        fork_bytes=0,
        spool_bytes=4096,
        spool_limit_bytes=1024**3,
        fetched_bytes=0,
        recovery_checked_s=0,
        suppliers=[
            SupplierReport(
                label="anna",
                node="ab" * 32,
                address="192.0.2.7:1",
                answers=False,
                state="offline",
                since_s=0,
                score=97,
                audited_s=0,
                audits_wrong=0,
                used_bytes=0,
                capacity_bytes=1024,
                ends_s=0,
                counts_until_s=0,
            )
        ],
        fairness=[],
        waits_for=[],
        trouble=["no answer from anna"],
    )
    report.update(changes)  # type: ignore[typeddict-item]
    return report


def test_status_says_what_snapshots_hold_where_there_are_some() -> None:
    report = status_report(FileState.SAFE)
    assert not any("snapshots" in line for line in lines(report, "/mnt"))
    report["snapshots"], report["snapshot_bytes"] = 3, 5 << 20
    assert "  snapshots  3; only they have 5.00 MiB" in lines(report, "/mnt")
    report["snapshots"] = 1
    assert "  snapshots  1; only it has 5.00 MiB" in lines(report, "/mnt")


def test_status_says_what_forks_hold_and_how_to_choose() -> None:
    report = status_report(FileState.SAFE, forks=1, fork_bytes=25)
    told = "  forks      1, with 25 B that are not in the volume: see `bitdustfs resolve`"
    assert told in lines(report, "/mnt")


@pytest.mark.parametrize(("fork_bytes", "more"), [(0, []), (25, ["Beside them .forks has 25 B"])])
def test_list_of_snapshots_counts_apart_what_no_snapshot_frees(fork_bytes: int, more: list[str]) -> None:
    made = SnapshotReport(name="s", made_s=0.0, automatic=False, alone_bytes=10)
    for shown, last in ([made], "1 snapshot; only it has 10 B."), ([], "There is no snapshot."):
        report = SnapshotsReport(snapshots=shown, held_bytes=10 * len(shown), fork_bytes=fork_bytes)
        said = snapshot_lines(report)[len(shown) :]
        assert all(each.startswith(words) for each, words in zip(said, [last, *more], strict=True))
        assert all("bitdustfs resolve" in each for each in said[1:])


@asynccontextmanager
async def served(home: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(control_server.serve, home / "control.sock", handlers)
        yield
        nursery.cancel_scope.cancel()


async def called(call: Call, *words: str | Path) -> Said:
    return await trio.to_thread.run_sync(partial(call, *words))


@pytest.mark.parametrize("state", FileState)
async def test_status_exits_by_the_worst_state(home: Path, call: Call, state: FileState) -> None:
    async def status(_args: Args, _report: Report) -> Mapping[str, object]:
        return {**status_report(state)}

    async with served(home, {"status": status}):
        said = await called(call, "--home", home, "status")
        as_json = await called(call, "status", "--home", home, "--json")
    assert said.code == as_json.code == STATE_EXIT[state]
    assert said.out.startswith(f"{home}: {state.value} - ")
    assert json.loads(as_json.out)["state"] == state.value


def test_every_state_has_an_exit_code_of_its_own_that_is_no_errors() -> None:
    assert set(STATE_EXIT) == set(FileState)
    codes = [*STATE_EXIT.values(), EXIT_INCOMPLETE]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & {*EXIT.values(), 1, 130}


def test_practice_is_called_so_in_status() -> None:
    shown = "\n".join(lines(status_report(FileState.PLACED, practice=True), "/mnt"))
    assert "practice: all suppliers are on this machine; do not keep anything here" in shown


@pytest.mark.parametrize(
    ("margin", "words"), [(2, "2 more suppliers may fail"), (1, "1 more supplier may"), (0, "one more"), (-1, "fail")]
)
def test_the_margin_is_explained(margin: int, words: str) -> None:
    shown = "\n".join(lines(status_report(FileState.PLACED, margin=margin), "/mnt"))
    assert f"margin     {margin}: " in shown
    assert words in shown


def shown(**changes: object) -> dict[str, str]:
    """The lines of `status`, by their first word."""
    report = status_report(FileState.PLACED)
    report.update(changes)  # type: ignore[typeddict-item]
    told = lines(report, "/mnt")
    return {line.split()[0]: " ".join(line.split()[1:]) for line in told}


@pytest.mark.parametrize(
    ("held", "needed", "words"),
    [
        (5, 3, "5 of 5 fragments, full: any 3 restore it"),
        (4, 3, "4 of 5 fragments: any 3 restore it"),
        (3, 1, "3 of 5 fragments: any 1 restores it"),  # copies, of the catalog: not three pieces that are all needed
        (2, 3, "2 of 5 fragments: it needs 3, and suppliers cannot restore it"),
    ],
)
def test_what_the_worst_block_can_bear_is_told_in_words(held: int, needed: int, words: str) -> None:
    assert shown(held=held, needed=needed)["blocks"] == f"1; the worst has {words}"


@pytest.mark.parametrize("margin", [2, 1, 0, -1])
def test_only_the_margin_says_how_many_suppliers_may_fail(margin: int) -> None:
    promises = [words for words in shown(margin=margin).values() if "may fail" in words]
    assert len(promises) == (margin > 0)  # not what is held: some of these suppliers may not answer now


def test_number_of_what_is_held_agrees_with_its_words() -> None:
    assert [shown(files=number)["holds"] for number in (1, 2)] == [
        "1 file or folder, 2.00 KiB",
        "2 files and folders, 2.00 KiB",
    ]


def test_bytes_are_told_by_how_safe_they_are() -> None:
    assert shown(state="safe", bytes_local=0, bytes_safe=2048)["of"] == "these 2.00 KiB safe"
    behind = "these 1.00 KiB safe, 1.00 KiB only here; the newest state of the catalog is not safe yet"
    assert shown()["of"] == behind
    told = shown(bytes_safe=0, bytes_placed=1, bytes_degraded=2, bytes_local=3, bytes_lost=4)["of"]
    assert told == "these 0 B safe, 1 B placed, 2 B on too few suppliers, 3 B only here, 4 B lost"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"repair_eta_s": -1},
            "2 fragments to make again (3.00 MiB); `bitdustfs rebuild --dry-run` says why it waits",
        ),
        ({"repair_eta_s": -1, "repairing": 1}, "2 fragments to make again (3.00 MiB); at work on 1 block"),
        (
            {"repair_eta_s": 3, "repairing": 2, "repair_bytes_per_s": 1048576.0},
            "2 fragments to make again (3.00 MiB); at work on 2 blocks; 1.00 MiB a second so far; about 3s left",
        ),
        ({"path": "/letters"}, "2 fragments to make again"),
    ],
)
def test_repair_is_told_with_its_speed_and_what_is_left(changes: Mapping[str, object], words: str) -> None:
    assert shown(missing_fragments=2, missing_bytes=3 << 20, **changes)["repair"] == words


def test_machine_that_reads_is_not_told_that_its_loss_would_lose_something() -> None:
    report = status_report(FileState.PLACED, missing_fragments=2, missing_bytes=3 << 20, repair_eta_s=-1)
    report["view"] = ViewReport(version=5, time_s=0, writer="ec" * 32, answering=5, needed=3)
    told = lines(report, "/mnt")
    assert not any("the newest state of the catalog" in line for line in told)  # it shows what suppliers have
    assert told[0] == (
        "/mnt: placed - survives the loss of as many suppliers as the margin says; "
        "the machine that writes knows whether more"
    )
    assert (
        "  repair     2 fragments to make again (3.00 MiB); the machine that writes makes them, if it has not" in told
    )


def test_supplier_is_told_with_since_when_it_is_as_it_is() -> None:
    report = status_report(FileState.PLACED)["suppliers"][0]
    assert "since" not in supplier_line(report)
    report["since_s"], report["audited_s"] = 1_700_000_000, 1_700_000_060
    line = supplier_line(report)
    for word in ("offline", "anna", f"since {moment(1_700_000_000)}", "score 97", f"audited {moment(1_700_000_060)}"):
        assert word in line


@pytest.mark.parametrize(
    ("state", "missing", "code"),
    [
        ("safe", [], 0),
        ("placed", [], EXIT_INCOMPLETE),
        ("placed", ["anna"], EXIT_INCOMPLETE),
        ("local", [], EXIT_INCOMPLETE),
        ("degraded", ["anna"], EXIT_INCOMPLETE),
        ("lost", ["anna"], STATE_EXIT[FileState.LOST]),
    ],
)
async def test_sync_ends_with_a_code_of_its_own_when_suppliers_are_missing(
    home: Path, call: Call, state: str, missing: list[str], code: int
) -> None:
    asked: list[Args] = []

    async def sync(args: Args, report: Report) -> Mapping[str, object]:
        asked.append(args)
        await report(SyncProgress(placed_bytes=1, total_bytes=2, blocks=1, missing=[]))
        return {
            "state": state,
            "missing": missing,
            "missing_fragments": len(missing),
            "files_local": 0,
            "bytes_local": 0,
            "why": [],
        }

    async with served(home, {"sync": sync}):
        said = await called(call, "--home", home, "sync", "--timeout", "1m")
    assert said.code == code
    assert all(label in said.out for label in missing)
    assert asked[0]["path"] == "/"
    assert 0 < asked[0]["timeout"] <= 60


def test_a_sync_that_ended_early_says_what_is_only_here() -> None:
    missing = ["anna", "ben"]
    report = SyncReport(
        state="local", missing=missing, missing_fragments=2, files_local=1, bytes_local=1024, why=["read-only"]
    )
    assert exit_code(report) == EXIT_INCOMPLETE
    told = "Ended as local; 1 file (1.00 KiB) only here; 2 fragments missing; no answer from anna, ben."
    assert sentence(report) == f"{told}\ntrouble: read-only"


def test_sync_that_ends_as_placed_says_only_what_is_known_of_the_catalog() -> None:
    """A machine that only reads shows what suppliers have, and was told that they have it not."""
    report = SyncReport(state="placed", missing=[], missing_fragments=0, files_local=0, bytes_local=0, why=[])
    assert sentence(report) == "Ended as placed; not enough suppliers are known to have the newest catalog."


def test_the_progress_shows_bytes_rate_and_remaining_time() -> None:
    pace = Pace(0.0)
    first = SyncProgress(placed_bytes=0, total_bytes=10 * 1024**2, blocks=3, missing=[])
    later = SyncProgress(placed_bytes=5 * 1024**2, total_bytes=10 * 1024**2, blocks=2, missing=["anna"])
    assert pace.text(first, now=0.0) == "0 B of 10.0 MiB, 3 blocks not full"
    assert pace.text(later, now=5.0) == (
        "5.00 MiB of 10.0 MiB, 1.00 MiB/s, 5s left, 2 blocks not full, no answer from anna"
    )


async def test_cache_drop_says_how_much_it_gave_back(home: Path, call: Call) -> None:
    async def drop(_args: Args, _report: Report) -> Mapping[str, object]:
        return {"dropped_bytes": 3 * 1024**2}

    async with served(home, {"cache-drop": drop}):
        said = await called(call, "--home", home, "cache", "drop")
        as_json = await called(call, "--home", home, "cache", "drop", "--json")
    assert said.out == "Dropped 3.00 MiB of local copies.\n"
    assert json.loads(as_json.out) == {"dropped_bytes": 3 * 1024**2}


def without_report(**changes: object) -> WithoutReport:
    report = WithoutReport(
        label="anna",
        fragments=12,
        used_bytes=4096,
        state="placed",
        blocks_lost=0,
        blocks_degraded=0,
        files_lost=0,
        bytes_lost=0,
        examples=[],
        held=4,
        needed=3,
        wanted=5,
        margin=1,
        others=5,
        most_wanted=5,
    )
    report.update(changes)  # type: ignore[typeddict-item]
    return report


@pytest.mark.parametrize(
    ("changes", "exits", "says"),
    [
        ({}, 0, "others could take"),
        ({"others": 4}, 0, "hire 1 supplier first"),
        ({"state": "degraded", "blocks_degraded": 3, "held": 3}, 31, "3 of 5 fragments"),
        ({"state": "lost", "blocks_lost": 1}, 33, "on this machine only"),
        ({"state": "lost", "blocks_lost": 1, "held": 2}, 33, "2 of 5 fragments: it needs 3, and suppliers cannot"),
        (
            {"state": "lost", "blocks_lost": 1, "files_lost": 2, "examples": ["/letters/a"], "bytes_lost": 9},
            33,
            "/letters/a",
        ),
    ],
)
async def test_status_without_a_supplier_says_what_would_be_lost(
    home: Path, call: Call, changes: Mapping[str, object], exits: int, says: str
) -> None:
    asked: list[Args] = []

    async def without(args: Args, _report: Report) -> Mapping[str, object]:
        asked.append(args)
        return {**without_report(**changes)}

    async with served(home, {"without": without}):
        said = await called(call, "--home", home, "status", "--without", "anna")
        as_json = await called(call, "status", "--without", "anna", "--home", home, "--json")
    assert said.code == as_json.code == exits
    assert says in said.out
    assert json.loads(as_json.out) == without_report(**changes)
    assert asked[0]["label"] == "anna"


async def test_status_is_shown_again_until_interrupted(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look(_s: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    async def status(_args: Args, _report: Report) -> Mapping[str, object]:
        return {**status_report(FileState.SAFE)}

    monkeypatch.setattr("bitdustfs.cli.status.time.sleep", look)
    async with served(home, {"status": status}):
        said = await called(call, "--home", home, "status", "--watch")
    assert said.code == 0
    assert said.out.count("holds") == 3


@pytest.mark.parametrize("more", [["/somewhere"], ["--watch"]])
async def test_without_takes_neither_path_nor_watch(home: Path, call: Call, more: list[str]) -> None:
    said = await called(call, "--home", home, "status", "--without", "anna", *more)
    assert said.code == EXIT[Kind.USAGE]
    assert "--without" in said.err
