"""What `tools/bench --compare` says: what moved, by how much, and what else is not as it was."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("bench_report")


def report(reports: ModuleType, ours: dict[str, list[float]], peer: dict[str, list[float]], size: int = 1) -> Any:
    rows = {
        "speed": reports.Row("a", "how fast", "MB/s", True),
        "time": reports.Row("a", "  how long", "s", False),
        "gone": reports.Row("a", "what is no more", "s", False),
    }
    table = {"bitdustfs": ours, **({"gocryptfs": peer} if peer else {})}
    return reports.report_of(rows, table, settings={"size_bytes": size}, failed=None, fill={})


def line(text: str, beginning: str) -> list[str]:
    (found,) = [each for each in text.splitlines() if each.strip().startswith(beginning)]
    return found.split()


def test_report_has_medians_and_the_median_of_the_ratios_of_runs(reports: ModuleType) -> None:
    made = report(reports, {"speed": [10, 30, 20], "time": [4.0]}, {"speed": [20, 10, 20], "time": [1.0]})

    speed, time = made["rows"]
    assert speed["median"] == {"bitdustfs": 20, "gocryptfs": 20}
    assert speed["ratios"] == [0.5, 3, 1] and speed["ratio"] == 1
    assert time["ratio"] == 0.25  # four times as long is a quarter as good
    shown = reports.text_of(made, "head")
    assert line(shown, "how fast") == ["how", "fast", "MB/s", "20.0", "10.0", "…", "30.0", "20.0", "1.00"]


def test_comparison_shows_medians_spreads_and_which_way_it_went(reports: ModuleType) -> None:
    old = report(reports, {"speed": [10, 11, 12], "time": [1.0, 2.0, 3.0], "gone": [1.0]}, {})
    new = report(reports, {"speed": [20, 22, 24], "time": [2.0, 2.5, 9.0]}, {})

    shown = reports.comparison(old, new)

    assert " ".join(line(shown, "how fast")[3:]) == "11.0 10.0 … 12.0 22.0 20.0 … 24.0 2.00 better"
    assert " ".join(line(shown, "how long")[3:]) == "2.00 1.00 … 3.00 2.50 2.00 … 9.00 0.80"  # the runs overlap
    assert "not measured now" in " ".join(line(shown, "what is no more"))
    assert reports.comparison(new, old).count("worse") == 1
    assert "size_bytes" not in shown


def test_comparison_says_what_else_differs_and_how_the_peer_did(reports: ModuleType) -> None:
    old = report(reports, {"speed": [10]}, {"speed": [10]})
    new = report(reports, {"speed": [20]}, {"speed": [40]}, size=2)

    shown = reports.comparison(old, new)

    assert "size_bytes: 1 then, 2 now" in shown
    assert line(shown, "how fast")[-3:] == ["1.00", "→", "0.50"]


def test_two_files_can_be_compared_and_others_are_refused(tmp_path: Path, reports: ModuleType) -> None:
    files = []
    for number in (1, 2):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(report(reports, {"speed": [10.0 * number]}, {})))
    (tmp_path / "bad.json").write_text("{}")

    done = _compare(*files)
    refused = _compare(tmp_path / "bad.json", files[0])

    assert done.returncode == 0 and "2.00" in done.stdout, done.stderr
    assert refused.returncode == 2 and "bad.json is not what --json writes" in refused.stderr


def _compare(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOLS / "bench", "compare", *files], capture_output=True, text=True)
