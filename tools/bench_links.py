"""`tools/bench links`: how much of real lines is used, and what one slow supplier among quick ones costs.

    five suppliers, each behind a link of its own of 100 Mbit/s and 30 ms one way; the customer's own is not limited
    -> write until `sync` returns: all n fragments of each block, one over each link
    -> read cold: k fragments of each block, over the links that the reader chooses
    -> the last link becomes one of 10 Mbit/s and 50 ms: read cold
    -> that supplier is killed: read cold without it

A share is what files made of the sum of all links: bytes of the file × n/k when writing, of the file when reading, to
what the links could have carried in that time, with every header and everything that was sent twice. What plain TCP
makes of the same links is measured first: it says what the relay (see bench_wires) and the processors leave.
All is done in namespaces of its own, so it needs root, and nothing stays.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench_bytes import standard_library
from bench_options import make_temporary, positive, size
from bench_report import Row, Table, comparison, read_report, report_of, text_of
from bench_sides import Bitdust
from bench_system import CLOSE_S, PAUSE_S, BenchError, command, cpu_seconds, end, processes_of, unmount
from bench_wires import Wire, Wires, far_address, sealed
from bench_work import GIB, Load, Run

_PORT = 4878
_PLAIN_S = 3.0
_GONE_S = 60  # until the mount has seen that a supplier is dead

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "links_plain_up": Row("links", "plain TCP to {suppliers} of {rate:g} Mbit/s, {delay:g} ms", "share", True),
        "links_plain_down": Row("links", "plain TCP from them", "share", True),
        "links_write": Row("links", "write, until sync returns", "MB/s", True),
        "links_write_share": Row("links", "  of the links' sum", "share", True),
        "links_write_sent": Row("links", "  bytes sent for each byte stored", "×", False),
        "links_read": Row("links", "read, cold", "MB/s", True),
        "links_read_share": Row("links", "  of the links' sum", "share", True),
        "links_read_received": Row("links", "  bytes received for each byte read", "×", False),
        "links_slow": Row("slow", "read, cold, one of {slow_rate:g} Mbit/s and {slow_delay:g} ms", "MB/s", True),
        "links_slow_received": Row("slow", "  bytes received for each byte read", "×", False),
        "links_without": Row("slow", "read, cold, without that one", "MB/s", True),
        "links_without_received": Row("slow", "  bytes received for each byte read", "×", False),
        "links_slow_share": Row("slow", "  with it, of without it", "share", True),
        "links_cpu": Row("links", "CPU of all daemons, for a write and the reads", "s", False),
        "links_relay": Row("links", "CPU of the relay", "s", False),
    }
)


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    code = 1
    with ExitStack() as stack:
        try:
            options.temporary = make_temporary(options.tmp, stack)
            code = sealed(lambda: _inside(options))
        except (BenchError, OSError) as bad:
            print(f"bench: FAILED: {bad}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/bench links", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--size", type=size, default=size("512M"), help="of the file (default 512M)")
    add("--runs", type=positive, default=3, metavar="N", help="runs (default 3)")
    add("--suppliers", type=positive, default=5, metavar="N", help="how many links (default 5)")
    add("--code", default="3/5", metavar="K/N", help="of the volume (default 3/5)")
    add("--link", type=_wire, default=_wire("100/30"), metavar="MBIT/MS", help="each way of each (default 100/30)")
    add("--slow", type=_wire, default=_wire("10/50"), metavar="MBIT/MS", help="of the slow one (default 10/50)")
    add("--only", choices=["links", "slow"], help="leave the other part out")
    add("--tmp", type=Path, default=Path("/var/tmp"), help="for the swarm: some times SIZE")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--compare", type=read_report, metavar="FILE", help="and show what moved since --json wrote that file")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", options.code) or _n(options.code) > options.suppliers:
        parser.error(f"a code of {options.code} is none for {options.suppliers} suppliers")
    return options


def _inside(options: argparse.Namespace) -> int:
    """All of it, in namespaces where nobody else is."""
    table: Table = {}
    failed = None
    with ExitStack() as stack:
        try:
            wires = Wires([options.link] * options.suppliers)
            shelf = GIB + 2 * options.runs * options.size  # what a run deletes stays in the trash
            side = Linked(options.temporary, wires, options.code, shelf_bytes=shelf)
            stack.callback(side.close)
            side.open()
            _measure(options, side, wires, table.setdefault(side.name, {}))
        except (BenchError, OSError, subprocess.SubprocessError) as bad:
            failed = str(bad)
        except KeyboardInterrupt:
            failed = "interrupted"
    settings = {
        "suppliers": options.suppliers,
        "code": options.code,
        "size_bytes": options.size,
        "runs": options.runs,
        "link": [options.link.mbit, options.link.delay_s],
        "slow": [options.slow.mbit, options.slow.delay_s],
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }
    fill = {
        "suppliers": options.suppliers,
        "rate": options.link.mbit,
        "delay": options.link.delay_s * 1e3,
        "slow_rate": options.slow.mbit,
        "slow_delay": options.slow.delay_s * 1e3,
    }
    report = report_of(ROWS, table, settings=settings, failed=failed, fill=fill)
    print(text_of(report, _head(report)))
    if options.compare:
        print(f"\n{comparison(options.compare, report)}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if failed:
        print(f"bench: FAILED: {failed}", file=sys.stderr)
    return 130 if failed == "interrupted" else 1 if failed else 0


def _measure(options: argparse.Namespace, side: Linked, wires: Wires, samples: dict[str, list[float]]) -> None:
    def note(row: str, value: float) -> None:
        samples.setdefault(row, []).append(value)

    every = range(1, len(wires) + 1)
    total = sum(options.link.bytes_per_s for _ in every)
    k, n = map(int, options.code.split("/"))
    share = n / k * 1e6 / total
    spent = cpu_seconds(side.daemons().all)
    relay = cpu_seconds([wires.relay])
    for number in range(1, options.runs + 1):
        run = _run(side, options, number)
        if options.only != "slow":
            _say(f"run {number} of {options.runs}: plain TCP")
            for up, row in ((True, "links_plain_up"), (False, "links_plain_down")):
                note(row, wires.plain_bytes_per_s(every, up=up, seconds=_PLAIN_S) / total)
        wires.check()
        _say(f"run {number} of {options.runs}: write")
        before = _counted(wires)
        written = dict(run.write())
        carried = _counted(wires)
        note("links_write", written["write_sync"])
        note("links_write_share", written["write_sync"] * share)
        note("links_write_sent", (carried[0] - before[0]) / options.size / n * k)
        if options.only != "slow":
            _say(f"run {number} of {options.runs}: read")
            speed, came = _read(run, wires, options.size)
            note("links_read", speed)
            note("links_read_share", speed * 1e6 / total)
            note("links_read_received", came)
        if options.only != "links":
            _say(f"run {number} of {options.runs}: read with a slow supplier, and without it")
            wires.change(len(wires), options.slow)
            slow, came = _read(run, wires, options.size)
            side.kill(len(wires))
            without, lone = _read(run, wires, options.size)
            wires.change(len(wires), options.link)
            side.serve(len(wires))
            side.until(len(wires), answers=True)
            note("links_slow", slow)
            note("links_slow_received", came)
            note("links_without", without)
            note("links_without_received", lone)
            note("links_slow_share", slow / without)
        wires.check()
        run.remove()
    now = cpu_seconds(side.daemons().all)
    note("links_cpu", sum(seconds - spent.get(pid, 0.0) for pid, seconds in now.items()) / options.runs)
    note("links_relay", (cpu_seconds([wires.relay])[wires.relay] - relay[wires.relay]) / options.runs)


def _run(side: Linked, options: argparse.Namespace, number: int) -> Run:
    place, beside = side.root / f"run{number}", options.temporary / f"run{number}"
    place.mkdir()
    beside.mkdir()
    return Run(side, Load(options.size, 1, 1, standard_library(), frozenset()), place, beside, _say)


def _read(run: Run, wires: Wires, size_bytes: int) -> tuple[float, float]:
    """MB/s of a cold read, and the bytes that came for each byte of it."""
    before = _counted(wires)
    read = dict(run.read())
    return read["read_cold"], (_counted(wires)[1] - before[1]) / size_bytes


def _counted(wires: Wires) -> tuple[int, int]:
    """Bytes that were sent to all suppliers, and came from them, with all headers."""
    sent = received = 0
    for link in json.loads(command(["ip", "-s", "-j", "link", "show"])):
        if link["ifname"].startswith("link"):
            sent += link["stats64"]["tx"]["bytes"]
            received += link["stats64"]["rx"]["bytes"]
    return sent, received


class Linked(Bitdust):
    """A volume whose suppliers are each behind a link."""

    def __init__(self, temporary: Path, wires: Wires, code: str, *, shelf_bytes: int) -> None:
        super().__init__(temporary / "mount", temporary / "home")
        self._temporary, self._wires, self._code = temporary, wires, code
        self._own = [self.program, "--home", self.home]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._owner = ""
        self._shelf = str(shelf_bytes)

    def open(self) -> None:
        self.root.mkdir()
        command([*self._own, "init", "--words-file", self._temporary / "words"])
        self._owner = command([*self._own, "id", "--owner"]).strip()
        every = range(1, len(self._wires) + 1)
        for number in every:
            words = self._temporary / f"words{number}"
            command([self.program, "--home", self._home_of(number), "init", "--words-file", words])
            self._start_serving(number)
        for number in every:
            place = self._said(f"supplier{number}")
            command([*self._own, "hire", place, "--size", self._shelf, "--name", f"link{number}"], wait_s=CLOSE_S)
        self._start("mount", [*self._own, "mount", "-f", "--code", self._code, "--", self.root])
        self._said("mount")
        for number in every:
            self.until(number, answers=True)

    def forget(self) -> None:
        """Without `sync`, which would wait for a supplier that was killed. All was settled when it was written."""
        self._forget()

    def serve(self, number: int) -> None:
        """Start a supplier again."""
        self._start_serving(number)
        self._said(f"supplier{number}")

    def kill(self, number: int) -> None:
        """End the process of a supplier as a power loss would, and wait until the mount has seen it."""
        process = self._processes.pop(f"supplier{number}")
        process.kill()
        process.wait()
        self.until(number, answers=False)

    def until(self, number: int, *, answers: bool) -> None:
        """Wait until the mount says of a supplier that it answers, or does not."""
        until = time.monotonic() + _GONE_S
        while self._answering().get(f"link{number}") is not answers:
            if time.monotonic() > until:
                raise BenchError(f"the mount does not see that supplier {number} {'lives' if answers else 'is dead'}")
            time.sleep(PAUSE_S)

    def close(self) -> None:
        unmount(self.root)
        end([process.pid for process in self._processes.values()])
        for process in self._processes.values():
            process.wait()
        end(list(processes_of(self._temporary)))

    def _home_of(self, number: int) -> Path:
        return self.home / f"supplier{number}"  # below ours, where daemons_of looks for them

    def _start_serving(self, number: int) -> None:
        words: Sequence[str | Path] = [
            *(self.program, "--home", self._home_of(number), "serve", "-f"),
            *("--listen", f"{far_address(number)}:{_PORT}", "--give", self._shelf),
            *("--allow", f"{self._owner}:{self._shelf}"),
        ]
        with self._wires.at(number):
            self._start(f"supplier{number}", words)

    def _start(self, name: str, words: Sequence[str | Path]) -> None:
        with (self._temporary / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def _said(self, name: str) -> str:
        """What it prints when it serves."""
        out = self._processes[name].stdout
        assert out is not None
        line = out.readline().decode().strip()
        if not line:
            log = (self._temporary / f"{name}.log").read_text(errors="replace")
            raise BenchError(f"{name} does not start: {log[-2000:]}")
        return line

    def _answering(self) -> dict[str, bool]:
        return {row["label"]: row["answers"] for row in self.status()["suppliers"]}


def _wire(text: str) -> Wire:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", text)
    if not found or not 0.1 <= float(found[1]) <= 10_000 or float(found[2]) > 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not MBIT/MS, such as 100/30")
    return Wire(float(found[1]), float(found[2]) / 1e3)


def _n(code: str) -> int:
    return int(code.partition("/")[2])


def _head(report: Mapping[str, Any]) -> str:
    return (
        f"links, {report['size_bytes'] / 2**20:.0f} MiB, runs: {report['runs']}, code {report['code']}, "
        f"TCP with {report['congestion']}"
    )


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
