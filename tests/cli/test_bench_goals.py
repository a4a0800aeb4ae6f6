"""`tools/bench goals` puts each figure beside its goal, and each goal is of a row that some benchmark has."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def goals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("bench_goals")


def test_each_goal_is_of_a_row_that_is_measured_and_judges_it_the_right_way_round(goals: ModuleType) -> None:
    rows: dict[str, Any] = {}
    for name in ("work", "large", "rebuild", "links"):
        rows |= importlib.import_module(f"bench_{name}").ROWS
    for goal in goals.GOALS:
        assert goal.row in rows
        bound = goal.least if rows[goal.row].more_is_better else goal.most
        assert bound is not None or goal.ratio is not None, goal.row
    assert len({goal.row for goal in goals.GOALS}) == len(goals.GOALS)


@pytest.mark.parametrize(
    "bounds, median, ratio, met",
    [
        ({"least": 10}, 10, None, True),
        ({"least": 10}, 9, None, False),
        ({"most": 10}, 10, None, True),
        ({"most": 10}, 11, None, False),
        ({"ratio": 1.0}, 5, 1.0, True),
        ({"ratio": 1.0}, 5, 0.9, False),
        ({"ratio": 1.0}, 5, None, None),
    ],
)
def test_goal_is_met_or_not(
    goals: ModuleType, bounds: dict[str, float], median: float, ratio: float | None, met: bool | None
) -> None:
    assert goals.Goal("row", "its name", **bounds).is_met(median, ratio) is met


def test_table_of_goals_has_all_of_them_and_says_what_was_not_measured(goals: ModuleType) -> None:
    reports = importlib.import_module("bench_report")
    rows = importlib.import_module("bench_work").ROWS
    table = {
        "bitdustfs": {"read_cold": [300.0, 360.0, 400.0], "small_rm": [0.7]},
        "gocryptfs": {"read_cold": [720.0]},
    }
    fill = {"files": 1, "tree": 1}
    part = reports.report_of(rows, table, settings={"runs": 3}, failed=None, fill=fill)

    report = goals.together({"big": part, "links": {**goals._NOTHING, "failed": "no root"}})
    shown = goals.table_of(report)

    found = {line.strip().partition("  ")[0]: line.split() for line in shown.splitlines()}
    assert " ".join(found["read it, cold"][3:]) == "MB/s ≥ 350 360 300 … 400 0.42 met"
    assert " ".join(found["rm -rf of them"][4:]) == "s ≤ 0.5 0.700 0.700 … 0.700 – NOT MET"
    assert found["rebuild"][-2:] == ["not", "measured"]
    assert len(shown.splitlines()) == len(goals.GOALS) + 3
    assert report["big_runs"] == 3 and report["failed"] == "links: no root"
    assert reports.comparison(report, report)  # it can be compared like any other


def test_row_that_several_parts_have_is_the_worst_of_them(goals: ModuleType) -> None:
    reports, work = (importlib.import_module(f"bench_{name}") for name in ("report", "work"))
    steps, speeds = [3.0, 9.0, 5.0], [300.0, 200.0, 250.0]
    parts = {
        name: reports.report_of(
            work.ROWS,
            {"bitdustfs": {"loop_step": [step], "read_cold": [speed]}},
            settings={},
            failed=None,
            fill={},
        )
        for name, step, speed in zip(goals.PARTS, steps, speeds, strict=False)
    }
    found = {row["row"]: row["median"]["bitdustfs"] for row in goals.together(parts)["rows"]}
    assert found == {"loop_step": 9.0, "read_cold": 200.0}


@pytest.mark.slow
def test_parts_that_were_measured_are_kept_and_those_that_failed_or_are_named_are_done_again(
    goals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reports = importlib.import_module("bench_report")
    done: list[str] = []

    def run(words: list[str], _temporary: Path) -> tuple[dict[str, Any] | None, str]:
        done.append(words[words.index("--only") + 1] if "--only" in words else words[0])
        if done[-1] == "git":
            return None, "git is not what it was"
        table = {"bitdustfs": {"loop_step": [float(len(done))]}}
        return reports.report_of(goals_rows, table, settings={}, failed=None, fill={}), ""

    goals_rows = importlib.import_module("bench_work").ROWS
    monkeypatch.setattr(goals, "_run", run)
    written = tmp_path / "goals.json"
    words = ["--no-peer", "--json", str(written), "--add"]

    assert goals.main([*words, "small", "git", "random"]) == 1
    assert done == ["small", "git", "random"]
    assert reports.read_report(str(written))["failed"] == "git: git is not what it was"
    done.clear()
    assert goals.main([*words, "small", "random"]) == 0
    assert done == ["small", "random"]
    done.clear()
    goals.main(words)
    assert done[:3] == ["write,read,dead", "rsync,find", "git"] and "small" not in done and "random" not in done
    assert "rebuild" in done


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["goals", "--runs", "0"], ["large", "--files", "1500"], ["goals", "x"], ["goals", "--add"]]
)
def test_bench_of_goals_refuses_what_cannot_work(words: list[str]) -> None:
    done = subprocess.run([sys.executable, TOOLS / "bench", *words], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "error:" in done.stderr
