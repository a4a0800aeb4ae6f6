"""`tools/bench large`: what depends on how much there is: a volume of a million files, and a stream of 10 GiB.

    a catalog with FILES small files, a tenth of them in one directory; their fragments are at the suppliers
    -> bytes of the catalog for each -> mount it: seconds, memory -> `ls` of the large directory, names unknown
    one file of STREAM bytes, on another volume -> write, sync, read cold: the peaks of memory, and speeds

The files are put into blocks and catalog without a mount, as `replica_costs.py` does: how long that takes is no part
of anything. A million of them need about 3 GiB in --tmp, a stream of 10 GiB about 40 GiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from bench_bytes import MIB, standard_library
from bench_options import make_temporary, positive, size
from bench_report import Row, Table, comparison, read_report, report_of, text_of
from bench_sides import Practice
from bench_system import COMMAND_S, BenchError, WrongBytes, command, peak_bytes
from bench_work import LOOP_STEP, Load, Run, longest_step, timed

SUPPLIERS, CODE = 5, "3/5"
_STAGE = Path(__file__).with_name("replica_costs_stage.py")
_EACH = 1000  # replica_costs_stage puts so many at a time
_CROWD_SHARE = 10

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "large_catalog": Row("files", "catalog, for each of {files} files", "bytes", False),
        "large_mount": Row("files", "mount of a volume with {files} files", "s", False),
        "large_memory": Row("files", "  memory of the mounting process then", "MiB", False),
        "large_ls": Row("files", "  ls of a directory with {crowd} entries", "s", False),
        "large_ls_memory": Row("files", "  peak memory until then", "MiB", False),
        "stream_fsync": Row("stream", "write {gib:g} GiB, until fsync returns", "MB/s", True),
        "stream_sync": Row("stream", "write {gib:g} GiB, until sync returns", "MB/s", True),
        "stream_cpu": Row("stream", "  CPU of all daemons", "s/GiB", False),
        "stream_memory": Row("stream", "  peak memory, mounting process", "MiB", False),
        "stream_read": Row("stream", "read them, cold", "MB/s", True),
        "stream_read_cpu": Row("stream", "  CPU of all daemons", "s/GiB", False),
        "stream_read_memory": Row("stream", "  peak memory, mounting process", "MiB", False),
        "stream_supplier": Row("stream", "  peak memory, largest supplier", "MiB", False),
        "loop_step": LOOP_STEP,
    }
)


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    table: Table = {"bitdustfs": {}}
    failures = []
    with ExitStack() as stack:
        temporary = make_temporary(options.tmp, stack)
        for part, work in (("files", _files), ("stream", _stream)):
            try:
                if options.only in (None, part):
                    for row, value in work(options, temporary):
                        table["bitdustfs"].setdefault(row, []).append(value)
            except (BenchError, OSError, subprocess.SubprocessError) as bad:
                failures.append(f"{part}: {bad}")
            except KeyboardInterrupt:
                failures = ["interrupted"]
                break
    failed = "; ".join(failures) or None
    settings = {"suppliers": SUPPLIERS, "code": CODE, "files": options.files, "stream_bytes": options.stream}
    fill = {"files": options.files, "crowd": _crowd(options.files), "gib": options.stream / 2**30}
    report = report_of(ROWS, table, settings=settings, failed=failed, fill=fill)
    print(text_of(report, f"practice swarm of {SUPPLIERS} on this machine, code {CODE}, one run"))
    if options.compare:
        print(f"\n{comparison(options.compare, report)}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if failed:
        print(f"bench: FAILED: {failed}", file=sys.stderr)
    return 130 if failed == "interrupted" else 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/bench large", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--files", type=_thousands, default=1_000_000, metavar="N", help="in the volume (default 1000000)")
    add("--stream", type=size, default=size("10G"), metavar="SIZE", help="of the one file (default 10G)")
    add("--only", choices=["files", "stream"], help="leave the other part out")
    add("--tmp", type=Path, default=Path("/var/tmp"), help="for the swarms (default /var/tmp)")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--compare", type=read_report, metavar="FILE", help="and show what moved since --json wrote that file")
    return parser.parse_args(arguments)


def _files(options: argparse.Namespace, temporary: Path) -> Iterator[tuple[str, float]]:
    with _swarm(temporary) as side:
        command([side.program, "umount", side.root])
        _say(f"{options.files} files")
        crowd = _crowd(options.files)
        told = command([sys.executable, _STAGE, side.home, str(options.files), str(crowd)], wait_s=3 * COMMAND_S)
        yield "large_catalog", json.loads(told)["per_file"]
        _say("mount")
        words = [side.program, "--home", side.home, "mount", f"--code={CODE}", "--", side.root]
        yield "large_mount", timed(lambda: command(words))
        (mounting,) = side.daemons().mount
        yield "large_memory", _resident(mounting) / MIB
        began = time.monotonic()
        listed = command(["ls", side.root / "crowd"]).count("\n")
        yield "large_ls", time.monotonic() - began
        if listed != crowd:
            raise WrongBytes(f"ls lists {listed} names, not {crowd}")
        yield "large_ls_memory", peak_bytes(mounting) / MIB
        yield from longest_step(side)
        side.abort()  # to send such a catalog first takes longer than all that was measured


def _stream(options: argparse.Namespace, temporary: Path) -> Iterator[tuple[str, float]]:
    with _swarm(temporary) as side:
        place, beside = side.root / "stream", temporary / "beside"
        place.mkdir()
        beside.mkdir()
        run = Run(side, Load(options.stream, 1, 1, standard_library(), frozenset()), place, beside, _say)
        _say("a long stream is written")
        side.start_peaks()
        written = dict(run.write())
        yield "stream_fsync", written["write_fsync"]
        yield "stream_sync", written["write_sync"]
        yield "stream_cpu", written["write_cpu"]
        yield "stream_memory", side.peaks()["mount"] / MIB
        supplier = side.peaks()["supplier"]
        _say("and read")
        side.start_peaks()
        read = dict(run.read())
        yield "stream_read", read["read_cold"]
        yield "stream_read_cpu", read["read_cpu"]
        yield "stream_read_memory", side.peaks()["mount"] / MIB
        yield "stream_supplier", max(supplier, side.peaks()["supplier"]) / MIB
        yield from longest_step(side)


@contextmanager
def _swarm(temporary: Path) -> Iterator[Practice]:
    """One of our own, in a directory below."""
    directory = Path(tempfile.mkdtemp(dir=temporary))
    side = Practice(directory, suppliers=SUPPLIERS, code=CODE)
    try:
        side.open()
        yield side
    finally:
        side.close()


def _crowd(files: int) -> int:
    return max(_EACH, files // _CROWD_SHARE // _EACH * _EACH)


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _thousands(text: str) -> int:
    """A number of files that the stage can make."""
    value = positive(text)
    if value % _EACH:
        raise argparse.ArgumentTypeError(f"must be a multiple of {_EACH}")
    return value


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
