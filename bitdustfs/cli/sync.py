"""`bitdustfs sync`: wait until everything is safe: at the suppliers, with all its fragments and the catalog."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import click

from bitdustfs.cli.common import Asked, Seconds, show_json, with_common_options, with_json
from bitdustfs.cli.status import STATE_EXIT
from bitdustfs.core.report import SyncProgress, SyncReport
from bitdustfs.core.units import count, format_eta, format_size
from bitdustfs.edges import mounts
from bitdustfs.edges.control import ask
from bitdustfs.edges.home import Home
from bitdustfs.edges.mounts import Mount
from bitdustfs.model import FileState

EXIT_INCOMPLETE = 34  # not everything has all its fragments: suppliers do not answer, or the time was over
_SYNCFS_S = 300.0  # the kernel hands over what it holds at the speed of the local disk

Progress = Callable[[Mapping[str, Any]], None]


@click.command(short_help="Wait until everything is safe.")
@click.argument("path", required=False)
@click.option("--timeout", type=Seconds(), help="Give up after this long: 90, 5m, 1h. Default: as long as it moves.")
@with_json
@with_common_options
def sync(asked: Asked, path: str | None, timeout: float | None) -> int:
    """Wait until everything is safe: at the suppliers, with all its fragments, and with the catalog that names it.

    Suppliers that do not answer are waited for only a while. Ctrl-C stops the waiting, not the sending.

    \b
    Exit codes: 0 everything is safe and has all its fragments, 34 not everything (who is missing is said), 33
    something is lost.

    \b
    Examples:
      bitdustfs sync
      bitdustfs sync ~/BitDust --timeout 10m
    """
    home, mount, inside = asked.home_of(path)
    report = wait_until_placed(home, mount, inside, timeout)
    if asked.as_json:
        show_json(cast("Mapping[str, object]", report))
    else:
        click.echo(sentence(report))
    return exit_code(report)


def wait_until_placed(home: Home, mount: Mount | None, inside: str, timeout: float | None) -> SyncReport:
    """Empty the kernel's dirty pages into the mount, then wait for its suppliers."""
    started = time.monotonic()
    if mount is not None:
        mounts.sync_filesystem(mount.mountpoint, wait_s=_SYNCFS_S if timeout is None else timeout)
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
    with _shown() as progress:
        answer = ask(home.control, "sync", {"path": inside, "timeout": left}, silence_s=None, progress=progress)
    return cast(SyncReport, answer)


def exit_code(report: SyncReport) -> int:
    """0 if it is all there, else why not."""
    state = FileState(report["state"])
    if state is FileState.LOST:
        return STATE_EXIT[state]
    return 0 if state is FileState.SAFE and not report["missing_fragments"] else EXIT_INCOMPLETE


def sentence(report: SyncReport) -> str:
    """Say how it ended."""
    if exit_code(report) == 0:
        return f"Everything is {report['state']}, with all its fragments."
    words = [f"Ended as {report['state']}"]
    if report["state"] == FileState.PLACED.value and not report["missing_fragments"]:
        words.append("not enough suppliers are known to have the newest catalog")
    if report["files_local"]:
        words.append(f"{count(report['files_local'], 'file')} ({format_size(report['bytes_local'])}) only here")
    if report["missing_fragments"]:
        words.append(f"{count(report['missing_fragments'], 'fragment')} missing")
    if report["missing"]:
        words.append(f"no answer from {', '.join(report['missing'])}")
    return "\n".join(["; ".join(words) + ".", *(f"trouble: {each}" for each in report["why"])])


@contextmanager
def _shown() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task: TaskID = bar.add_task("to suppliers", total=None, told="")
        pace = Pace(time.monotonic())

        def show(step: Mapping[str, Any]) -> None:
            told = cast(SyncProgress, step)
            text = pace.text(told, now=time.monotonic())
            bar.update(task, completed=told["placed_bytes"], total=told["total_bytes"] or None, told=text)

        yield show


class Pace:
    """How fast a sync goes and how long it will take, from its steps."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._first: int | None = None

    def text(self, step: SyncProgress, *, now: float) -> str:
        """Bytes, rate and remaining time for the end of the bar."""
        placed, total = step["placed_bytes"], step["total_bytes"]
        if self._first is None:
            self._first, self._since = placed, now
        words = [f"{format_size(placed)} of {format_size(total)}"]
        passed = now - self._since
        if passed > 0 and placed > self._first:
            rate = (placed - self._first) / passed
            words.append(f"{format_size(int(rate))}/s")
            if total > placed:
                words.append(f"{format_eta((total - placed) / rate)} left")
        if step["blocks"]:
            words.append(f"{count(step['blocks'], 'block')} not full")
        if step["missing"]:
            words.append(f"no answer from {', '.join(step['missing'])}")
        return ", ".join(words)
