"""`tools/bench goals`: the whole table of goals of DESIGN.md section 10, measured, beside the goals.

    big       write, read, and read with n - k dead: 512 MiB, beside gocryptfs, as all up to random
    small     2000 files of 4 KiB: cp, sync, read cold, rm
    trees     rsync and find of a real tree
    git       clone and status
    random    pages of 4 KiB
    files     a catalog of a million files: mount, ls
    stream    10 GiB: memory
    rebuild   what a lost supplier held is made again
    links     lines of 100 Mbit/s and 30 ms (root)
    slow      the same, and one slow one (root)

All of it takes about half an hour on two cores, 40 GiB in --tmp, and a machine that does nothing else. --quick takes
a tenth, and its figures are for nobody but who works on the code. A part that fails is told, and the others are still
done; --json is written after each. With --add the parts that it has are kept, and those that failed, that it lacks,
or that are named are measured: so a run that was cut off can go on, and one can be had in parts. A row of several
parts, such as that of the event loop, is the worst of them.
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
from types import MappingProxyType
from typing import Any

from bench_options import positive
from bench_report import FORMAT, columns, comparison, read_report, spread

BENCH = Path(__file__).with_name("bench")
PART_S = 3600  # no part takes half as long; what does hangs
_AGAINST_PEER = {
    "big": "write,read,dead",
    "small": "small",
    "trees": "rsync,find",
    "git": "git",
    "random": "random",
}
_BY_ROOT = ("links", "slow")
PARTS = (*_AGAINST_PEER, "files", "stream", "rebuild", *_BY_ROOT)


# What a part tells that could not be run at all.
_NOTHING: Mapping[str, Any] = MappingProxyType(
    {
        **{"format": FORMAT, "ended": None, "machine": None, "load_average": None},
        **{"sides": ("bitdustfs",), "rows": (), "failed": None},
    }
)


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
    Goal("loop_step", "longest step of the loop of the mount", most=20),
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
    wanted = _wanted(options)
    parts: dict[str, Any] = {name: part for name, part in options.before.items() if name not in wanted}
    code = 0
    for name in wanted:
        words = _words(options, name)
        print(f"bench: goals: tools/bench {' '.join(words)}", file=sys.stderr)
        report, failure = _run(words, options.tmp)
        if report:
            parts[name] = report
        if failure:
            code = 130 if failure == "interrupted" else 1
            parts.setdefault(name, {**_NOTHING})["failed"] = failure
        if options.json:
            _write(options.json, together(parts))
        if code == 130:
            break
    report = together(parts)
    print(table_of(report))
    if options.compare:
        print(f"\n{comparison(options.compare, report)}")
    if report["failed"]:
        print(f"bench: FAILED: {report['failed']}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/bench goals", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("parts", nargs="*", type=_part, metavar="PART", help="only these (default all)")
    add("--runs", type=positive, default=5, metavar="N", help="of what is done beside gocryptfs (default 5)")
    add("--quick", action="store_true", help="one run of everything, and a tenth of its size")
    add("--no-peer", action="store_true", help="without gocryptfs, and without ratios")
    add("--tmp", type=Path, default=Path("/var/tmp"), help="for temporary files (default /var/tmp)")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--add", action="store_true", help="to what --json wrote there before")
    add("--compare", type=read_report, metavar="FILE", help="and show what moved since --json wrote that file")
    options = parser.parse_args(arguments)
    if options.add and not options.json:
        parser.error("--add needs --json")
    options.before = {}
    if options.add and options.json.exists():
        try:
            options.before = read_report(options.json).get("parts", {})
        except argparse.ArgumentTypeError as bad:
            parser.error(str(bad))
    return options


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"no such part: {text}; there are {', '.join(PARTS)}")
    return text


def _wanted(options: argparse.Namespace) -> list[str]:
    """The parts to be measured, in order."""
    done = {name for name, part in options.before.items() if not part["failed"]}
    wanted = [name for name in PARTS if name in (options.parts or set(PARTS) - done)]
    left_out = [name for name in wanted if name in _BY_ROOT and os.geteuid() != 0]
    if left_out:
        print(f"bench: goals: {', '.join(left_out)}: these need root; left out", file=sys.stderr)
    return [name for name in wanted if name not in left_out]


def _words(options: argparse.Namespace, name: str) -> list[str]:
    """What is run for a part: words for tools/bench."""
    quick = options.quick
    if name in _AGAINST_PEER:
        words = ["--only", _AGAINST_PEER[name], "--runs", str(1 if quick else options.runs)]
        words += ["--size", "64M", "--files", "500", "--operations", "1000"] if quick else []
        return words if options.no_peer else [*words, "--against", "gocryptfs"]
    return {
        "files": ["large", "--only", "files", *(["--files", "100000"] if quick else [])],
        "stream": ["large", "--only", "stream", *(["--stream", "1G"] if quick else [])],
        "rebuild": ["rebuild", *(["--held", "128M", "--read", "64M"] if quick else [])],
        "links": ["links", "--only", "links", *(["--runs", "1", "--size", "128M"] if quick else [])],
        "slow": ["links", "--only", "slow", *(["--runs", "1", "--size", "128M"] if quick else [])],
    }[name]


def _run(words: list[str], temporary: Path) -> tuple[dict[str, Any] | None, str]:
    """One benchmark: what it found, and why it failed."""
    with tempfile.NamedTemporaryFile(dir=temporary, suffix=".json") as file:
        line: list[str | Path] = [sys.executable, BENCH, *words, "--tmp", temporary, "--json", file.name]
        process = subprocess.Popen(line, start_new_session=True)  # Ctrl-C comes to it once, from us
        failure = ""
        while True:
            try:
                process.wait(PART_S)
                break
            except KeyboardInterrupt:
                failure = "interrupted"
                process.send_signal(signal.SIGINT)  # and it cleans up
            except subprocess.TimeoutExpired:
                if failure:
                    process.kill()  # it does not even clean up
                failure = failure or f"did not end in {PART_S} s"
                process.send_signal(signal.SIGINT)
        try:
            report = read_report(file.name)
        except argparse.ArgumentTypeError:
            return None, failure or f"ended with {process.returncode}"
        if process.returncode and not failure:
            failure = report["failed"] or f"ended with {process.returncode}"
        return report, failure


def _write(place: Path, report: Mapping[str, Any]) -> None:
    """As a whole or not at all: it may hold half an hour of work."""
    beside = place.with_name(f"{place.name}.new")
    beside.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    beside.replace(place)


def together(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One report of all of them; --compare takes it like any other."""
    last = list(parts.values())[-1] if parts else _NOTHING
    settings = {f"{name}_{key}": value for name, part in parts.items() for key, value in _settings(part).items()}
    rows: dict[str, Mapping[str, Any]] = {}
    for row in (row for part in parts.values() for row in part["rows"]):
        rows[row["row"]] = _worst(rows.get(row["row"], row), row)
    failures = [f"{name}: {part['failed']}" for name, part in parts.items() if part["failed"]]
    return {
        "format": FORMAT,
        "ended": last["ended"],
        "machine": last["machine"],
        **settings,
        "load_average": last["load_average"],
        "sides": max((part["sides"] for part in parts.values()), key=len, default=[]),
        "rows": list(rows.values()),
        "failed": "; ".join(failures) or None,
        "parts": dict(parts),
    }


def _worst(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    medians = [row["median"].get("bitdustfs", 0.0) for row in (one, other)]
    return one if (medians[0] <= medians[1]) == one["more_is_better"] else other


def _settings(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in _NOTHING}


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
