"""`bitdustfs mount`: check everything that can be wrong, start the process that serves, return when it does.

    parent: checks -> starts the daemon -> waits for its one line -> says it, exits
    daemon: the same checks, under the home's lock -> serves -> tells the parent

The daemon is a process of its own, started and not forked: a fork would share threads' locks and open files.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from bitdustfs.cli.common import Asked, with_common_options
from bitdustfs.cli.mount_options import MountWish, mount_options
from bitdustfs.cli.processes import daemon
from bitdustfs.cli.waiting import shown_waiting
from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home, check_free, hold
from bitdustfs.errors import BadRequest, BitdustError, Kind

Ready = Callable[[Sequence[str]], None]


@click.command(short_help="Mount the volume of this home.")
@click.argument("directory")
@click.option(
    "--code",
    metavar="K/N",
    help="From now on blocks survive the loss of N-K of N suppliers. At first, and with `auto`: by their number.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground and log to stderr. Ctrl-C unmounts.")
@click.option("-o", "words", metavar="OPTIONS", multiple=True, help="allow_other, ro, spool=SIZE, fsync=safe …")
@click.option(
    "--take-over",
    "takes_over",
    is_flag=True,
    help="Write the volume here at once, although another machine of yours, or a copy of this home, may write it.",
)
@click.option("--daemon", "is_daemon", is_flag=True, hidden=True)
@with_common_options
def mount(
    asked: Asked,
    directory: str,
    code: str | None,
    foreground: bool,
    words: tuple[str, ...],
    takes_over: bool,
    is_daemon: bool,
) -> None:
    """Mount the volume of this home at DIRECTORY, which must be empty.

    Returns when the mount serves; what is written is sent to the suppliers in the background.

    If another machine of yours writes the volume now, it is asked to let it go: it sends all that it has, and from
    then on only reads, and shows what is written here. One that cannot be reached is waited for, ten minutes at most;
    --take-over does not wait. What is waited for is said every ten seconds. Ctrl-C ends the waiting, and leaves the
    volume to the other machine.

    \b
    Options after -o, with commas between them:
      allow_other       other users may look into the mount, as the modes of its files say
      ro                nothing can be changed
      spool=SIZE        local cache and unsent data; default: 20 GiB, or a fifth of what is free
      read_timeout=S    how long a read waits for suppliers; default: 30s
      fsync=safe        fsync waits until the file survives the loss of this
                        machine, and fails with ETIMEDOUT after fsync_deadline
      fsync_deadline=S  default: 300s
      max_background=N  how many reads ahead and late writes the kernel hands
                        over at a time; default: 200. Root only: else it is 12

    \b
    Examples:
      bitdustfs mount ~/BitDust
      bitdustfs mount ~/BitDust --code 3/5 -o spool=100G
      bitdustfs --home /srv/b mount /mnt/b -f
    """
    if is_daemon:
        _be_daemon(asked, directory, code, words, takes_over=takes_over)
        return
    home, options = _check(asked, directory, code, words, takes_over=takes_over)
    if foreground:
        _serve(asked, home, options, _print, to_file=False)
    else:
        _print(_start_daemon(asked, home, options.place, code, words, takes_over=takes_over))


def _check(
    asked: Asked, directory: str, code: str | None, words: Sequence[str], *, takes_over: bool
) -> tuple[Home, MountWish]:
    """Look at everything that can be known before anything is changed."""
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    home = asked.open_home()
    identity_of(read_keys(home))
    options = mount_options(mounts.place_of(directory), code, words, asked.settings(home), takes_over=takes_over)
    if options.settings.give_size:
        shelf = os.path.realpath(options.settings.give_shelf or home.shelf)
        mounts.refuse_inside_ours(shelf, "the shelf", mounts.read_mounts())
        if mounts.is_inside(shelf, options.place):
            raise BadRequest(what=f"the shelf {shelf} lies in {options.place}: choose another one (give.shelf)")
    mounts.check_fuse()
    mounts.check_mountpoint(options.place, str(home), mounts.read_mounts())
    check_free(home)
    return home, options


def _serve(asked: Asked, home: Home, options: MountWish, ready: Ready, *, to_file: bool) -> None:
    import trio

    from bitdustfs.cli.assemble import run_mount
    from bitdustfs.cli.logs import log_to_file, log_to_stderr

    os.chdir("/")  # we must not need what we serve ourselves
    with hold(home):
        level = asked.level(options.settings)
        if to_file:
            log_to_file(home, level)
        else:
            log_to_stderr(level)
        trio.run(run_mount, home, options, ready)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


# --- the daemon and its parent ------------------------------------------------------------------------------


def _start_daemon(
    asked: Asked, home: Home, place: str, code: str | None, words: Sequence[str], *, takes_over: bool
) -> Sequence[str]:
    """Start the serving process and wait until it serves or gives up. Returns what it has to say.

    Raises:
        BitdustError: why it does not serve, with the kind it has there.
    """
    order = ["mount", "--daemon"]
    order += [f"--code={code}"] if code is not None else []
    order += [f"-o{word}" for word in words]
    order += ["--take-over"] if takes_over else []
    order += [f"--log-level={asked.log_level}"] if asked.log_level is not None else []
    with tempfile.NamedTemporaryFile(prefix="bitdustfs-mount-") as early:  # what is refused leaves no log
        with shown_waiting(Path(early.name), lambda line: click.echo(line, err=True)):
            (became,) = asked.start([daemon(home, Path(early.name), *order, "--", place)])
        if isinstance(became, BitdustError):
            if became.kind is Kind.BUG:
                with home.log.open("ab") as log:
                    log.write(early.read())
            raise became
    return [str(said) for said in json.loads(became)]


def _be_daemon(asked: Asked, directory: str, code: str | None, words: Sequence[str], *, takes_over: bool) -> None:
    """Serve until the end; tell who started us once that we do, by a line on stdout."""

    def ready(lines: Sequence[str]) -> None:
        with open(os.dup(1), "wb", buffering=0) as pipe, home.log.open("ab") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            with suppress(OSError):  # nobody waits any more, which is no reason not to serve
                pipe.write(json.dumps(list(lines)).encode() + b"\n")

    home, options = _check(asked, directory, code, words, takes_over=takes_over)
    _serve(asked, home, options, ready, to_file=True)
