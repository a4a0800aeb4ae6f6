"""`bitdustfs umount`: end a mount, and say what exists only here."""

from __future__ import annotations

import time
from typing import cast

import click

from bitdustfs.cli.common import (
    SENT_LATER,
    Asked,
    Seconds,
    explain,
    only_here,
    show_json,
    with_common_options,
    with_json,
)
from bitdustfs.cli.sync import exit_code, sentence, wait_until_placed
from bitdustfs.core.report import StopReport
from bitdustfs.edges import mounts
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, find_home, holder
from bitdustfs.errors import BitdustError, Kind, NotFound, Unavailable

STOP_S = 30.0  # from the request to the end of the process
_DETACH_S = 20.0  # after that the mount is taken away under a process that does not end
_PAUSE_S = 0.05


@click.command(short_help="Unmount, and end the process that serves.")
@click.argument("directory")
@click.option("--sync", "first_sync", is_flag=True, help="First wait until everything is at the suppliers.")
@click.option("--timeout", type=Seconds(), help="With --sync: wait no longer than this.")
@with_json
@with_common_options
def umount(asked: Asked, directory: str, first_sync: bool, timeout: float | None) -> int:
    """Unmount DIRECTORY and end the process that serves it.

    Says how many files and bytes exist only on this machine, and what becomes of them: they are sent when it is
    mounted again, or put aside if another machine writes the volume by then.

    \b
    Examples:
      bitdustfs umount ~/BitDust
      bitdustfs umount ~/BitDust --sync --timeout 10m
    """
    place = mounts.place_of(directory)
    mount = mounts.mounted_at(place, mounts.read_mounts())
    if mount is None or not mount.is_ours or mount.home is None:
        raise NotFound(what=f"bitdustfs is not mounted at {directory}")
    home = find_home(mount.home)
    code = 0
    if first_sync:
        report = wait_until_placed(home, mount, "/", timeout)
        code = exit_code(report)
        if not asked.as_json:
            click.echo(sentence(report))
    stopped = _stop(home)
    _wait_for_end(place, home)
    if asked.as_json:
        show_json({**stopped} if stopped else dict.fromkeys(StopReport.__annotations__))
    else:
        click.echo(told(directory, stopped))
    return code


def _stop(home: Home) -> StopReport | None:
    """Ask the process to end. None: nobody is there who could be asked.

    Raises:
        BitdustError: it will not end, because it could not store what was written last.
    """
    try:
        return cast(StopReport, ask(home.control, "stop", silence_s=STOP_S / 2))
    except NotServed:
        return None
    except BitdustError as error:
        if error.kind in (Kind.FULL, Kind.LOST):  # its disk takes nothing now: it goes on until that is over
            raise
        explain(error)
        return None


def _wait_for_end(place: str, home: Home) -> None:
    """Wait until mount and process are gone; after a while take the mount away ourselves."""
    started = time.monotonic()
    asked_kernel = False
    while True:
        mounted = mounts.mounted_at(place, mounts.read_mounts()) is not None
        waited = time.monotonic() - started
        pid = holder(home)
        if not mounted and pid is None:
            return
        if waited > STOP_S:
            raise Unavailable(what=f"the process {pid} that served {place} does not end; end it with `kill {pid}`")
        if mounted and not asked_kernel and (waited > _DETACH_S or pid is None):
            asked_kernel = True
            mounts.detach(place, lazy=pid is None or waited > _DETACH_S)
            continue
        time.sleep(_PAUSE_S)


def told(directory: str, stopped: StopReport | None) -> str:
    """Say what was done, and what is only here. None: there was nobody to ask."""
    if stopped is None:
        return f"Unmounted {directory}. Its process was gone; what is only here is {SENT_LATER}."
    return f"Unmounted {directory}. {only_here(stopped)}"
