"""What a benchmark found: as JSON, as a table for a person, and beside what an earlier one found.

A table is side → row → one value a run; the first side is ours. A row's ratio is the median of its runs' ratios,
since runs are done in turn: above 1 is better for us.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 2

Table = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    stage: str
    text: str
    unit: str
    more_is_better: bool


def main(arguments: list[str]) -> int:
    """`tools/bench compare OLD NEW`."""
    parser = argparse.ArgumentParser(prog="tools/bench compare", description="Show what moved between two --json.")
    parser.add_argument("old", type=read_report, metavar="OLD")
    parser.add_argument("new", type=read_report, metavar="NEW")
    options = parser.parse_args(arguments)
    print(comparison(options.old, options.new))
    return 0


def report_of(
    rows: Mapping[str, Row], table: Table, *, settings: Mapping[str, Any], failed: str | None, fill: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that was measured. `settings` tells how; `fill` is put into the texts of the rows."""
    sides = list(table)
    found = []
    for key, row in rows.items():
        samples = {side: table[side][key] for side in sides if table[side].get(key)}
        if not samples:
            continue
        ratios = []
        if len(sides) == 2 and len(samples) == 2:
            pairs = zip(*(samples[side] for side in sides), strict=False)
            ratios = [ratio(ours, theirs, more_is_better=row.more_is_better) for ours, theirs in pairs]
        shown = row.text.format_map(fill)
        found.append(
            {
                "row": key,
                "stage": row.stage,
                "workload": shown.strip(),
                "shown": shown,
                "unit": row.unit,
                "more_is_better": row.more_is_better,
                "samples": samples,
                "median": {side: statistics.median(values) for side, values in samples.items()},
                "ratios": ratios,
                "ratio": statistics.median(ratios) if ratios else None,
            }
        )
    return {
        "format": FORMAT,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        **settings,
        "load_average": os.getloadavg(),
        "sides": sides,
        "rows": found,
        "failed": failed,
    }


def read_report(text: str) -> dict[str, Any]:
    """A report that was written as JSON. Raises argparse.ArgumentTypeError."""
    try:
        report = json.loads(Path(text).read_text())
        if report["format"] not in (1, FORMAT):
            raise argparse.ArgumentTypeError(f"{text} has format {report['format']}, not {FORMAT}")
        for row in report["rows"]:
            row["row"], row["unit"], row["more_is_better"], row["samples"], row["ratio"]
    except OSError as bad:
        raise argparse.ArgumentTypeError(f"{text}: {bad.strerror}") from bad
    except (ValueError, KeyError, TypeError) as bad:
        raise argparse.ArgumentTypeError(f"{text} is not what --json writes") from bad
    return dict(report)


def ratio(ours: float, theirs: float, *, more_is_better: bool) -> float:
    """Above 1 is better for us. A time too short for the clock counts as its tick."""
    ours, theirs = max(ours, 1e-9), max(theirs, 1e-9)
    return ours / theirs if more_is_better else theirs / ours


def text_of(report: Mapping[str, Any], head: str) -> str:
    """The table, for a person, below a line that says how it was measured."""
    ours, *peers = report["sides"] or ["nothing"]
    lines = [["workload", "unit", "median", "min … max", *(word for peer in peers for word in (peer, "ratio"))]]
    for row in report["rows"]:
        values = row["samples"].get(ours)
        line = [row["shown"], row["unit"], *spread(values)]
        for peer in peers:
            line.append(spread(row["samples"].get(peer))[0])
            line.append("–" if row["ratio"] is None else f"{row['ratio']:.2f}")
        lines.append(line)
    load = f"load average at the end {report['load_average'][0]:.1f}"
    return "\n".join([head, f"{report['machine']}, {load}", "", *columns(lines)])


def comparison(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What moved on our side: medians and spreads then and now, and their ratio; above 1 is better now.

    A row has moved if its runs then and now do not overlap; with fewer than three runs on a side that says little.
    """
    lines = [["workload", "unit", "old", "min … max", "new", "min … max", "new/old", "", "vs peer, old → new"]]
    before = {row["row"]: row for row in old["rows"]}
    for row in new["rows"]:
        was = before.pop(row["row"], None)
        then, now = _ours(old, was) if was else None, _ours(new, row)
        line = [row["shown"], row["unit"], *spread(then), *spread(now)]
        if then and now:
            medians = statistics.median(now), statistics.median(then)
            better = ratio(*medians, more_is_better=row["more_is_better"])
            line += [f"{better:.2f}", _moved(then, now, better)]
        else:
            line += ["–", "new"] if now else ["–", ""]
        peer = [each["ratio"] if each else None for each in (was, row)]
        line.append("" if None in peer else f"{peer[0]:.2f} → {peer[1]:.2f}")
        lines.append(line)
    for row in before.values():
        lines.append([row["shown"], row["unit"], *spread(_ours(old, row)), "–", "", "–", "not measured now", ""])
    return "\n".join([f"compared with {old['ended']}", *_differences(old, new), "", *columns(lines)])


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal length as columns, the first two to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:2], widths[:2], strict=True)]
        words += [word.rjust(width) for word, width in zip(line[2:], widths[2:], strict=True)]
        shown.append("  ".join(words).rstrip())
    return shown


def spread(values: Sequence[float] | None) -> list[str]:
    """Median, and least and most."""
    if not values:
        return ["–", ""]
    return [digits(statistics.median(values)), f"{digits(min(values))} … {digits(max(values))}"]


def digits(value: float) -> str:
    """Three digits are more than a benchmark knows."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:#.3g}"


def _ours(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[float]:
    found: list[float] = row["samples"].get(report["sides"][0], [])
    return found


def _moved(then: Sequence[float], now: Sequence[float], better: float) -> str:
    if min(now) <= max(then) and min(then) <= max(now):
        return ""
    return "better" if better > 1 else "worse"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else is not as it was, so that nobody takes that for progress."""
    told = {"format", "ended", "load_average", "rows", "failed", "runs", "parts"}
    names = [name for name in {**old, **new} if name not in told and old.get(name) != new.get(name)]
    return [f"  {name}: {old.get(name)} then, {new.get(name)} now" for name in names]
