"""`bitdustfs recover`: from the 24 words and the address of one supplier to the whole volume, on an empty machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from bitdustfs.cli.common import Asked, count, with_common_options
from bitdustfs.cli.hire import parse_place
from bitdustfs.cli.words import read_secret, with_words_file
from bitdustfs.core.units import format_size
from bitdustfs.edges.home import Home, hold, make_home
from bitdustfs.errors import AlreadyThere

_SHOWN = 20  # names of files; the rest is counted


@click.command()
@click.argument("suppliers", metavar="NODEID@ADDR:PORT...", nargs=-1, required=True)
@click.option("--accept", is_flag=True, help="Take what is found, also if too few suppliers answer to be sure.")
@with_words_file
@with_common_options
def recover(asked: Asked, suppliers: tuple[str, ...], accept: bool, words_file: str | None) -> None:
    """Bring a volume back on a machine that has nothing of it.

    Asks for the 24 words. One supplier's address is enough: the others are learned from it. The names come back at
    once, the contents when they are read. From then on this machine writes the volume, and any other that did
    cannot change it any more.

    \b
    Examples:
      bitdustfs recover 9c1f…e0@192.0.2.7:4878
      bitdustfs mount ~/BitDust
    """
    home = asked.find_home()
    friends = [parse_place(text) for text in suppliers]
    if home.keys.exists() or (home.catalog.exists() and not home.recovering.exists()):
        raise AlreadyThere(what=f"{home} holds a volume already, and nothing was changed: choose another --home")
    secret = read_secret(words_file)

    import trio

    from bitdustfs.cli.logs import log_to_stderr
    from bitdustfs.cli.recovering import run_recover

    make_home(home)
    with hold(home):
        log_to_stderr("error")
        report = trio.run(run_recover, home, secret, friends, accept, _say, _progress)
    _tell(home, report.removed, report.reverted)


def _say(version: int, time_s: int, answered: int, listed: int, confirming: int) -> None:
    date = datetime.fromtimestamp(time_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    click.echo(f"Version {version} of {date}, confirmed by {confirming} of {count(listed, 'supplier')}.")
    if answered < listed:
        click.echo(f"{answered} of {listed} suppliers answered.")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        click.echo(f"\rcatalog: {format_size(done)} of {format_size(total)}{end}", nl=False, err=True)


def _tell(home: Home, removed: Sequence[bytes], reverted: Sequence[bytes]) -> None:
    for paths, what in ((removed, "only on the old machine, and gone"), (reverted, "here in an older version")):
        if paths:
            click.echo(f"{count(len(paths), 'file')} {'was' if len(paths) == 1 else 'were'} {what}:")
            for path in paths[:_SHOWN]:
                click.echo(f"  {path.decode('utf-8', 'backslashreplace')}")
            if len(paths) > _SHOWN:
                click.echo(f"  … and {len(paths) - _SHOWN} more")
    click.echo(f"Recovered into {home}. Now: bitdustfs mount DIRECTORY")
