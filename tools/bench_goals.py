"""`tools/bench goals`: the whole table of goals of DESIGN.md section 10, measured, beside the goals.

    tools/bench --against gocryptfs   all small work; ratios
    tools/bench large                 a million files; a stream of 10 GiB
    tools/bench rebuild               what a lost supplier held is made again
    tools/bench links                 lines of 100 Mbit/s and 30 ms, and one slow one (root)

It takes about an hour on two cores, 40 GiB in --tmp, and a machine that does nothing else. --quick takes a tenth, and
its figures are for nobody but who works on the code. A part that fails is told, and the others are still done.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_options import positive
from bench_report import FORMAT, columns, comparison, read_report, spread

BENCH = Path(__file__).with_name("bench")


@dataclass(frozen=True, slots=True)
class Goal:
    """A row of some benchmark, and what it is to reach: a figure, or a ratio to the peer."""

    row: str
    name: str
    least: float | None = None
    most: float | None = None
    ratio: float | None = None

    def text(self) -> str:
        """The goal in a few characters."""
        parts = [f"≥ {self.least:g}"] if self.least is not None else []
        parts += [f"≤ {self.most:g}"] if self.most is not None else []
        return ", ".join([*parts, f"ratio ≥ {self.ratio:.2g}"] if self.ratio is not None else parts)

    def is_met(self, median: float, ratio: float | None) -> bool | None:
        """None: there was no peer to compare with."""
        if self.ratio is not None and ratio is None:
            return None
        return (
            (self.least is None or median >= self.least)
            and (self.most is None or median <= self.most)
            and (self.ratio is None or ratio is None or ratio >= self.ratio)
        )


GOALS: Sequence[Goal] = (
    Goal("write_fsync", "write 512 MiB, until fsync", ratio=1.0),
    Goal("write_sync", "  until it is at all five suppliers", least=200),
    Goal("write_cpu", "  CPU of all processes", most=8),
    Goal("read_cold", "read it, cold", least=350),
    Goal("read_cpu", "  CPU of all processes", most=5),
    Goal("dead_read", "  with two suppliers dead", least=250),
    Goal("small_cp", "cp -r of small files", least=2000),
    Goal("small_sync", "  sync after it", most=3),
    Goal("small_read", "  reading them, cold", least=1500),
    Goal("small_rm", "  rm -rf of them", most=0.5),
    Goal("rsync_first", "rsync -a of a real tree", most=3.5),
    Goal("rsync_again", "  again, warm", most=0.15),
    Goal("rsync_remount", "  again, after a remount", most=0.5),
    Goal("find_cold", "find, cold", most=0.3),
    Goal("git_clone", "git clone", ratio=1 / 1.5),
    Goal("git_status", "git status", ratio=1 / 1.5),
    Goal("random_read_local", "random 4 KiB reads, cached on disk", least=10_000),
    Goal("random_write", "random 4 KiB writes, one fsync", least=10_000),
    Goal("random_fsync", "4 KiB write + fsync", most=1),
    Goal("stream_memory", "long stream, written: memory of the mount", most=200),
    Goal("stream_read_memory", "  read: memory of the mount", most=200),
    Goal("stream_supplier", "  memory of the largest supplier", most=80),
    Goal("large_catalog", "catalog, for each small file", most=600),
    Goal("large_mount", "mount of a million files", most=2),
    Goal("large_memory", "  memory then", most=300),
    Goal("large_ls", "  ls of the largest directory", most=3),
    Goal("rebuild_alone", "rebuild", least=100),
    Goal("links_write_share", "five links, write: share of their sum", least=0.85),
    Goal("links_read_share", "  read, cold: share of their sum", least=0.85),
    Goal("links_slow_share", "  read with a slow one, of without it", least=0.8),
)


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    parts: dict[str, Any] = {}
    failures = []
    code = 0
    for name, words in _parts(options).items():
        print(f"bench: goals: tools/bench {' '.join(words)}", file=sys.stderr)
        report, failure = _run(words, options.tmp)
        if report:
            parts[name] = report
        if failure:
            failures.append(f"{name}: {failure}")
        if failure == "interrupted":
            code = 130
            break
    report = together(parts, failures)
    print(table_of(report))
    if options.compare:
        print(f"\n{comparison(options.compare, report)}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for failure in failures:
        print(f"bench: FAILED: {failure}", file=sys.stderr)
    return code or int(bool(failures))


def _parse(arguments: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/bench goals", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--runs", type=positive, default=5, metavar="N", help="of the small work (default 5)")
    add("--quick", action="store_true", help="one run of everything, and a tenth of its size")
    add("--only", choices=["work", "large", "rebuild", "links"], help="leave the other parts out")
    add("--no-peer", action="store_true", help="without gocryptfs, and without ratios")
    add("--tmp", type=Path, default=Path("/var/tmp"), help="for temporary files (default /var/tmp)")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--compare", type=read_report, metavar="FILE", help="and show what moved since --json wrote that file")
    return parser.parse_args(arguments)


def _parts(options: argparse.Namespace) -> Mapping[str, list[str]]:
    """What is run: words for tools/bench."""
    runs = str(1 if options.quick else options.runs)
    parts = {
        "work": ["--runs", runs, *(["--size", "64M", "--files", "500"] if options.quick else [])],
        "large": ["large", *(["--files", "100000", "--stream", "1G"] if options.quick else [])],
        "rebuild": ["rebuild", *(["--held", "128M", "--read", "64M"] if options.quick else [])],
        "links": ["links", *(["--runs", "1", "--size", "128M"] if options.quick else [])],
    }
    if not options.no_peer:
        parts["work"] += ["--against", "gocryptfs"]
    if os.geteuid() != 0 and options.only is None:
        print("bench: goals: links need root; left out", file=sys.stderr)
        del parts["links"]
    return {name: words for name, words in parts.items() if options.only in (None, name)}


def _run(words: list[str], temporary: Path) -> tuple[dict[str, Any] | None, str]:
    """One benchmark: what it found, and why it failed."""
    with tempfile.NamedTemporaryFile(dir=temporary, suffix=".json") as file:
        line: list[str | Path] = [sys.executable, BENCH, *words, "--tmp", temporary, "--json", file.name]
        process = subprocess.Popen(line, start_new_session=True)  # Ctrl-C comes to it once, from us
        failure = ""
        while True:
            try:
                process.wait()
                break
            except KeyboardInterrupt:
                failure = "interrupted"
                process.send_signal(signal.SIGINT)  # and it cleans up
        try:
            report = read_report(file.name)
        except argparse.ArgumentTypeError:
            return None, failure or f"ended with {process.returncode}"
        if process.returncode and not failure:
            failure = report["failed"] or f"ended with {process.returncode}"
        return report, failure


def together(parts: Mapping[str, Mapping[str, Any]], failures: Sequence[str]) -> dict[str, Any]:
    """One report of all of them; --compare takes it like any other. Those of no part are None."""
    last = list(parts.values())[-1] if parts else {}
    settings = {f"{name}_{key}": value for name, part in parts.items() for key, value in _settings(part).items()}
    return {
        "format": FORMAT,
        "ended": last.get("ended"),
        "machine": last.get("machine"),
        **settings,
        "load_average": last.get("load_average"),
        "sides": next((part["sides"] for part in parts.values()), []),
        "rows": [row for part in parts.values() for row in part["rows"]],
        "failed": "; ".join(failures) or None,
    }


def _settings(part: Mapping[str, Any]) -> dict[str, Any]:
    told = {"format", "ended", "machine", "load_average", "sides", "rows", "failed"}
    return {key: value for key, value in part.items() if key not in told}


def table_of(report: Mapping[str, Any]) -> str:
    """Each goal, with its figure, spread, ratio to the peer, and whether it is met."""
    rows = {row["row"]: row for row in report["rows"]}
    lines = [["workload", "unit", "goal", "median", "min … max", "ratio", ""]]
    for goal in GOALS:
        row = rows.get(goal.row)
        values = row["samples"].get("bitdustfs") if row else None
        if not row or not values:
            lines.append([goal.name, "", goal.text(), "–", "", "–", "not measured"])
            continue
        met = goal.is_met(row["median"]["bitdustfs"], row["ratio"])
        shown = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        word = {True: "met", False: "NOT MET", None: "no peer"}[met]
        lines.append([goal.name, row["unit"], goal.text(), *spread(values), shown, word])
    return "\n".join([f"{report['machine']}", "", *columns(lines)])
