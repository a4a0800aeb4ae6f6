"""`tools/bench rebuild`: how long it takes to make again what a lost supplier held, alone and while somebody reads.

    write, sync -> kill one, wait until it is lost -> time until all fragments are held again
    -> kill another, read while it is only away -> wait until it is lost -> read the same while it is made again

The practice swarm waits for 30 s before it takes a supplier for lost; that is not counted. What is read, and what is
rebuilt, comes from suppliers: the cache is dropped before. All parties are on this machine, so what they share is its
processors, not a line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench_bytes import MIB, Content
from bench_options import make_temporary, positive, size
from bench_report import Row, comparison, read_report, report_of
from bench_sides import Practice
from bench_system import COMMAND_S, BenchError, WrongBytes, cpu_seconds
from bench_work import LOOP_STEP

LOST_S = 120  # from the kill until the supplier is lost, at most
LOOK_S = 1.0  # each look starts a program, which takes a quarter of a second of a processor from what is measured
ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "rebuild_alone": Row("rebuild", "rebuild of what a lost supplier held", "MB/s", True),
        "rebuild_cpu": Row("rebuild", "  CPU of all daemons", "s/GiB", False),
        "rebuild_away": Row("rebuild", "read, cold, one supplier away", "MB/s", True),
        "rebuild_read": Row("rebuild", "  while it is rebuilt", "MB/s", True),
        "loop_step": LOOP_STEP,
    }
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was measured."""

    fragments: int  # made again, alone
    alone_s: float
    cpu_s: float  # of all daemons, meanwhile
    held_bytes: int  # by the supplier that was lost
    read_before: float  # MB/s, one supplier away, nothing rebuilt
    reads: tuple[float, ...]  # MB/s while it was
    advanced: int  # fragments made again during these reads
    left: int  # when they ended
    longest_step_s: float  # of the mount's event loop


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    found, failed = None, None
    with ExitStack() as stack:
        temporary = make_temporary(options.tmp, stack)
        side = Practice(temporary, suppliers=options.suppliers, code=options.code, spares=2)
        stack.callback(side.close)
        try:
            side.open()
            found = _measure(side, options)
        except (BenchError, OSError, subprocess.SubprocessError) as bad:
            failed = str(bad)
        except KeyboardInterrupt:
            failed = "interrupted"
    if found:
        print(_text(found, options))
    report = _report(found, options, failed)
    if options.compare:
        print(f"\n{comparison(options.compare, report)}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if failed:
        print(f"bench: FAILED: {failed}", file=sys.stderr)
    return 130 if failed == "interrupted" else 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench rebuild", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--held", type=size, default=size("1G"), help="bytes at the supplier that is lost (default 1G)")
    add("--read", type=size, default=size("256M"), help="bytes of each read meanwhile, at most (default 256M)")
    add("--suppliers", type=positive, default=5, metavar="N", help="of the practice swarm (default 5)")
    add("--code", default="3/5", metavar="K/N", help="of the practice swarm (default 3/5)")
    add("--tmp", type=Path, default=Path("/var/tmp"), help="for the swarm: N times what one holds, and some more")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--compare", type=read_report, metavar="FILE", help="and show what moved since --json wrote that file")
    options = parser.parse_args(arguments)
    options.size = options.held * int(options.code.partition("/")[0])
    options.read = min(options.read, options.size)
    return options


def _measure(side: Practice, options: argparse.Namespace) -> Rebuilt:
    _say("write and sync")
    content, file = Content(options.size), side.root / "big"
    _write(file, content)
    side.settle()
    _say("one supplier is killed; nobody reads")
    side.forget()
    held = next(each["used_bytes"] for each in side.status()["suppliers"] if each["label"] == "supplier1")
    side.kill(1)
    missing = _until_lost(side)
    began, before = time.monotonic(), cpu_seconds(side.daemons().all)
    _until_full(side)
    alone_s = time.monotonic() - began
    cpu_s = sum(spent - before.get(pid, 0.0) for pid, spent in cpu_seconds(side.daemons().all).items())
    _say("another is killed, and somebody reads")
    side.settle()
    side.kill(2)
    read_before = statistics.median(_read(side, file, content, options.read) for _ in range(2))
    side.forget()
    most = _until_lost(side)
    reads = []
    while (left := side.status()["missing_fragments"]) and len(reads) < 5:
        reads.append(_read(side, file, content, options.read))
    left = side.status()["missing_fragments"]
    _until_full(side)
    return Rebuilt(
        missing, alone_s, cpu_s, held, read_before, tuple(reads), most - left, left, side.longest_step()[0]
    )


def _write(file: Path, content: Content) -> None:
    with open(file, "xb", buffering=0) as out:
        for piece in content.pieces():
            out.write(piece)
        os.fsync(out.fileno())


def _read(side: Practice, file: Path, content: Content, count: int) -> float:
    """Read the beginning of the file, cold, and compare it. Returns MB/s."""
    side.forget()
    wanted = [bytes(piece) for piece, _ in zip(content.pieces(), range(count // MIB), strict=False)]
    began = time.monotonic()
    with open(file, "rb", buffering=0) as opened:
        got = [opened.read(MIB) for _ in wanted]
    took_s = time.monotonic() - began
    if got != wanted:
        raise WrongBytes(f"{file}: wrong bytes")
    return count / 1e6 / took_s


def _until_lost(side: Practice) -> int:
    """Wait until fragments are missing. Returns how many at most were seen."""
    until = time.monotonic() + LOST_S
    while not (missing := int(side.status()["missing_fragments"])):
        if time.monotonic() > until:
            raise BenchError("the killed supplier is not lost")
        time.sleep(LOOK_S)
    return missing


def _until_full(side: Practice) -> None:
    until = time.monotonic() + COMMAND_S
    while left := side.status()["missing_fragments"]:
        if time.monotonic() > until:
            raise BenchError(f"{left} fragments are still missing")
        time.sleep(LOOK_S)


def _report(found: Rebuilt | None, options: argparse.Namespace, failed: str | None) -> dict[str, Any]:
    """The same as every benchmark tells."""
    samples: dict[str, list[float]] = {}
    if found:
        samples = {
            "rebuild_alone": [found.held_bytes / 1e6 / found.alone_s],
            "rebuild_cpu": [found.cpu_s * 2**30 / found.held_bytes],
            "rebuild_away": [found.read_before],
            "rebuild_read": list(found.reads),
            "loop_step": [found.longest_step_s * 1e3],
        }
    settings = {"suppliers": options.suppliers, "code": options.code, "held_bytes": options.held}
    return report_of(ROWS, {"bitdustfs": samples}, settings=settings, failed=failed, fill={})


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


def _text(found: Rebuilt, options: argparse.Namespace) -> str:
    gib = found.held_bytes / 2**30
    lines = [
        f"rebuild, practice swarm of {options.suppliers} on this machine, code {options.code}",
        f"load average at the end {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores",
        "",
        f"a supplier is lost that held {found.held_bytes / 2**20:.0f} MiB, nobody reads:",
        f"  all made again in {found.alone_s:.1f} s, {found.alone_s / gib:.0f} s/GiB, "
        f"{found.held_bytes / 1e6 / found.alone_s:.0f} MB/s; CPU of all daemons {found.cpu_s / gib:.0f} s/GiB",
        f"cold read of {options.read / 2**20:.0f} MiB, one supplier away:",
        f"  nothing is rebuilt: {found.read_before:.0f} MB/s",
    ]
    if found.reads:
        median = statistics.median(found.reads)
        speeds = ", ".join(f"{each:.0f}" for each in found.reads)
        lines += [
            f"  while it is rebuilt: {median:.0f} MB/s ({speeds}), {median / found.read_before:.2f} of that",
            f"  meanwhile {found.advanced} fragments were made again, {found.left} were left",
        ]
    else:
        lines.append("  it was rebuilt before anything could be read")
    return "\n".join(lines)
