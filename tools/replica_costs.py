#!/usr/bin/env python3
"""Measure what it costs to keep the catalog at suppliers, and to bring it back.

Prints one table, with a column for each number of files; never judges. Suppliers are processes of a practice swarm,
the customer is the real engine without a kernel in front of it, and the files are put into blocks and catalog
directly: how long that takes is no part of any row. What is recovered is mounted, listed and read through the kernel.

Run it with the interpreter that the program is installed for, on a machine that does nothing else meanwhile:

    .venv/bin/python tools/replica_costs.py --files 10000,100000,1000000 --read 20000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_sides import Practice, find_program
from bench_system import BenchError, command, is_mounted, peak_bytes, processes_of, remove_tree, unmount

SUPPLIERS, CODE = 5, "3/5"
MIB = 1 << 20
_STAGE = Path(__file__).with_name("replica_costs_stage.py")
_LONG_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    text: str
    unit: str
    scale: float = 1.0  # what a measured value is divided by


ROWS: Mapping[str, Row] = {
    "catalog": Row("catalog on disk", "MiB", MIB),
    "per_file": Row("  for each file", "bytes"),
    "first_bytes": Row("first snapshot: sent, over all suppliers", "MiB", MIB),
    "first_image": Row("  of which one copy, without coding", "MiB", MIB),
    "first_s": Row("  until it is safe", "s"),
    "first_step": Row("  longest step of the loop, CPU", "ms", 0.001),
    "small_bytes": Row("small change (mkdir): sent, over all suppliers", "KiB", 1024),
    "small_s": Row("  until it is safe", "s"),
    "small_step": Row("  longest step of the loop, CPU", "ms", 0.001),
    "thousand_bytes": Row("1000 new files: sent, without their contents", "KiB", 1024),
    "thousand_s": Row("  until they are safe", "s"),
    "thousand_step": Row("  longest step of the loop, CPU", "ms", 0.001),
    "again_bytes": Row("snapshot after these: sent, over all suppliers", "MiB", MIB),
    "again_s": Row("  how long", "s"),
    "again_step": Row("  longest step of the loop, CPU", "ms", 0.001),
    "ship_peak": Row("peak memory of the customer", "MiB", MIB),
    "recover_s": Row("recover: the catalog is back", "s"),
    "recover_peak": Row("  peak memory", "MiB", MIB),
    "ls_s": Row("  first ls, with the mount, counted from the words", "s"),
    "read_files": Row("  files read through the mount, one after another", ""),
    "read_s": Row("    until then, counted from the words", "s"),
    "list_s": Row("  all names listed, after that", "s"),
    "mount_peak": Row("  peak memory of the mount", "MiB", MIB),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    table: dict[int, dict[str, float]] = {}
    try:
        for files in options.files:
            table[files] = measure(files, options.read, options.temporary)
    except (BenchError, OSError, subprocess.SubprocessError) as bad:
        print(f"error: {bad}", file=sys.stderr)
        return 1
    finally:
        show(table)
        if options.json and table:
            options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--files", type=numbers, default=[10_000], metavar="N,…", help="how many files each volume has (10000)"
    )
    parser.add_argument(
        "--read", type=int, default=1 << 30, metavar="N", help="read about so many files after the recovery (all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there, in bytes and seconds")
    parser.add_argument(
        "--temporary", type=Path, metavar="DIR", help="where swarms are made; a million files take about 3 GiB"
    )
    return parser.parse_args(arguments)


def numbers(text: str) -> list[int]:
    found = [int(each) for each in text.split(",")]
    if not found or any(each < 1000 or each % 1000 for each in found):
        raise argparse.ArgumentTypeError("numbers of files are multiples of 1000")
    return found


def measure(files: int, most: int, temporary: Path | None) -> dict[str, float]:
    """One volume, from its first snapshot to what is read after a recovery."""
    with swarm(temporary) as practice:
        print(f"{files} files: shipping", file=sys.stderr)
        words = [sys.executable, _STAGE, str(practice.home), str(files)]
        found: dict[str, float] = json.loads(command(words, wait_s=_LONG_S))
        print(f"{files} files: recovering", file=sys.stderr)
        return {**found, **recover(practice, files, most)}


@contextmanager
def swarm(temporary: Path | None) -> Iterator[Practice]:
    """Suppliers that run, and a home that has hired them and is not mounted."""
    directory = Path(tempfile.mkdtemp(prefix="bitdustfs-costs-", dir=temporary))
    try:
        practice = Practice(directory, suppliers=SUPPLIERS, code=CODE)
        try:
            practice.open()
            command([find_program(), "--home", practice.home, "umount", practice.root])
            yield practice
        finally:
            practice.close()
    finally:
        remove_tree(directory)


def recover(practice: Practice, files: int, most: int) -> dict[str, float]:
    """A second home from the words and one address; its mount is listed, and about `most` of its files are read."""
    program = find_program()
    new = practice.home / "demo" / "second-home"  # below the practice home, so that its processes end with it
    place = json.loads((practice.home / "demo" / "swarm.json").read_bytes())["members"][0]["place"]
    words = practice.home / "demo" / "recovery-words"
    started = time.monotonic()
    with subprocess.Popen(
        [program, "--home", new, "recover", place, "--words-file", words], stdout=subprocess.DEVNULL
    ) as recovering:
        _, status, usage = os.wait4(recovering.pid, 0)
        recovering.returncode = os.waitstatus_to_exitcode(status)
    if recovering.returncode != 0:
        raise BenchError(f"recover ended with {recovering.returncode}")
    found = {"recover_s": time.monotonic() - started, "recover_peak": usage.ru_maxrss * 1024.0}
    command([program, "--home", new, "mount", f"--code={CODE}", "--", practice.root], wait_s=_LONG_S)
    try:
        directories = sorted(os.listdir(practice.root))
        os.listdir(practice.root / directories[0])
        found["ls_s"] = time.monotonic() - started
        read = 0
        for directory in directories:
            read += read_all(practice.root / directory) if read < most else 0
        found |= {"read_s": time.monotonic() - started, "read_files": float(read)}
        count = sum(len(os.listdir(practice.root / directory)) for directory in directories)
        if count < files:
            raise BenchError(f"{count} of {files} files came back")
        found["list_s"] = time.monotonic() - started
        mounting = [pid for pid, arguments in processes_of(new).items() if "mount" in arguments]
        found["mount_peak"] = float(max(map(peak_bytes, mounting), default=0))
    finally:
        if is_mounted(practice.root):
            unmount(practice.root)
    return found


def read_all(directory: Path) -> int:
    """Read every file of a directory, and see that its name is in it. Returns how many there are."""
    names = os.listdir(directory)
    for name in names:
        content = (directory / name).read_bytes()
        if not content.startswith(name.encode()):
            raise BenchError(f"{directory.name}/{name} has the content of another file")
    return len(names)


def show(table: Mapping[int, Mapping[str, float]]) -> None:
    if not table:
        return
    columns = "".join(f"{files:>12}" for files in table)
    print(f"{'files':<56}{'':<6}{columns}")
    for name, row in ROWS.items():
        values = "".join(f"{found[name] / row.scale:>12.4g}" for found in table.values() if name in found)
        print(f"{row.text:<56}{row.unit:<6}{values}")


if __name__ == "__main__":
    sys.exit(main())
