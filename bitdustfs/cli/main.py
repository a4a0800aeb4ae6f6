"""The command `bitdustfs`: its verbs, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import NoReturn

import click

from bitdustfs.cli.common import Asked, explain, first_of_ours, leaves
from bitdustfs.cli.processes import Starter, start_daemons
from bitdustfs.edges.config import LOG_LEVELS
from bitdustfs.errors import EXIT, BitdustError, Kind

VERB_MODULES = (  # each has a verb, which is called as the module is, or as the second list says
    "init",
    "sheet",
    "identify",
    "serve",
    "invite",
    "join",
    "friends",
    "hire",
    "recover",
    "revoke",
    "mount",
    "umount",
    "status",
    "sync",
    "audit",
    "rebuild",
    "fsck",
    "suppliers",
    "contracts",
    "recode",
    "snapshot",
    "resolve",
    "cache",
    "config",
    "demo",
)
_NAMES = {"identify": "id"}
_GARBAGE_OBJECTS = 20_000  # young objects before a collection: what is loaded makes many, and none is garbage
EXIT_INTERRUPTED = 130  # as shells say: 128 + SIGINT
EXIT_UNHEARD = 1  # who read our output has gone; click ends with this too

_HELP = """A folder that you mount, and whose contents live, encrypted and erasure-coded, on your friends' computers.

\b
Try it on this machine alone, with seven practice suppliers:
  bitdustfs demo up ~/BitDust          make everything and mount it
  cp -a ~/Documents ~/BitDust/         use it like any folder
  bitdustfs status ~/BitDust           how safe is it?
  bitdustfs demo kill 1                lose a supplier; everything can still be read
  bitdustfs demo down                  stop; what you wrote stays

\b
For real:
  bitdustfs init                       make your keys; write the 24 words down
  bitdustfs mount ~/BitDust
  bitdustfs invite --offer 50G         a line for a friend: each keeps things for the other
  bitdustfs join LINE                  what the friend types, on another machine
  bitdustfs suppliers leave NAME       when you do not want one any more
  bitdustfs snapshot create            keep the volume as it is now: see .snapshots in the mount
  bitdustfs contracts                  what you and your friends give each other; change or end it
  bitdustfs serve --give 50G           keep things for a friend, on another machine or home
  bitdustfs sheet                      what to keep on paper, with the words
  bitdustfs recover NODEID@ADDR:PORT   on another machine, when this one is gone

Exit codes: 0 done, 2 wrong usage, 10 not found, 11 exists already, 12 in use, 13 not allowed, 14 not reachable,
15 disk full, 16 contracts full, 17 lost or damaged, 18 read-only, 19 unreadable format, 20 a peer cheated,
21 something is not installed, 30 to 33 see `status --help`, 34 see `sync --help`, 35 see `audit --help`,
36 see `fsck --help`, 70 a fault of ours, 130 interrupted.
"""


class _Verbs(MutableMapping[str, click.Command]):
    """All verbs by their names. A verb is loaded when it is asked for: none has to wait for all others."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._verbs: dict[str, click.Command | str] = {_NAMES.get(module, module): module for module in modules}

    def __getitem__(self, name: str) -> click.Command:
        verb = self._verbs[name]
        if isinstance(verb, str):
            loaded: click.Command = getattr(import_module(f"bitdustfs.cli.{verb}"), verb)
            verb = self._verbs[name] = loaded
        return verb

    def __setitem__(self, name: str, verb: click.Command) -> None:
        self._verbs[name] = verb

    def __delitem__(self, name: str) -> None:
        del self._verbs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)


@click.group(
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=_Verbs(VERB_MODULES),
)
@click.option("--home", metavar="DIR", help="State directory. Default: $BITDUSTFS_HOME, else the platform's place.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs, where there is something to read.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Least important lines that are logged.")
@click.version_option(package_name="bitdustfs", message="bitdustfs %(version)s")
@click.pass_context
def group(context: click.Context, home: str | None, as_json: bool, log_level: str | None) -> None:
    asked = context.ensure_object(Asked)
    asked.home, asked.as_json, asked.log_level = home, as_json, log_level


def run(arguments: Sequence[str], start: Starter = start_daemons) -> int:
    """Do what the command line says and return the exit code.

    Args:
        start: how verbs start those that go on when they end.
    """
    os.umask(0o077)  # whatever we make is private; the modes of files in a mount come from their makers
    try:
        asked = Asked(start=start)
        code = group.main(list(arguments), prog_name="bitdustfs", standalone_mode=False, obj=asked)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as bad:
        return _say_usage(bad)
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return EXIT_UNHEARD
    except BitdustError as error:
        explain(error)
        return error.exit_code
    except BaseExceptionGroup as several:
        return _say_several(several, arguments)
    except Exception as fault:  # noqa: BLE001 - the process must get an exit code
        return _say_fault(fault, arguments)


def main() -> NoReturn:
    """The entry point of the installed command."""
    gc.set_threshold(_GARBAGE_OBJECTS)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files may be any bytes
    sys.exit(run(sys.argv[1:]))


def _say_usage(bad: click.ClickException) -> int:
    message = bad.format_message()
    hint = ""
    if isinstance(bad, click.UsageError) and bad.ctx is not None:
        hint = f"; see `{bad.ctx.command_path} --help`"
    click.echo(f"bitdustfs: {message[:1].lower()}{message[1:].rstrip('.')}{hint}", err=True)
    return EXIT[Kind.USAGE]


def _say_several(several: BaseExceptionGroup[BaseException], arguments: Sequence[str]) -> int:
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(several)):
        return EXIT_INTERRUPTED
    first = first_of_ours(several)
    if first is None:
        return _say_fault(several, arguments)
    explain(first)
    return first.exit_code


def _say_fault(fault: BaseException, arguments: Sequence[str]) -> int:
    """Put the traceback into HOME/log, or on stderr if there is no home."""
    trace = "".join(traceback.format_exception(fault))
    home = _home_in(arguments).find_home()
    try:
        with home.log.open("a") as log:
            log.write(f"a fault in `bitdustfs {next(iter(arguments), '')} …`\n{trace}")
        where = f"the log, {home.log}, says where"
    except OSError:
        click.echo(trace, err=True)
        where = "its trace is above"
    click.echo(f"bitdustfs: a fault of our own, {type(fault).__name__}: {where}", err=True)
    return EXIT[Kind.BUG]


def _home_in(arguments: Sequence[str]) -> Asked:
    asked = Asked()
    for flag, value in pairwise(arguments):
        if flag == "--home":
            asked.home = value
    return asked


if __name__ == "__main__":
    main()
