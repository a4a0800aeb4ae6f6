"""`bitdustfs sheet`: print again what belongs on paper, without the words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from bitdustfs.cli.common import Asked, today, with_common_options
from bitdustfs.core.report import StatusReport
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, check_free, hold, write_new

if TYPE_CHECKING:
    from bitdustfs.core.sheet import Place

_SILENCE_S = 30  # the mount answers from its catalog


@click.command(short_help="Print what belongs on paper.")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@with_common_options
def sheet(asked: Asked, file: str | None) -> None:
    """Print how to get everything back: owner fingerprint, suppliers, and what to do.

    The words are not on it: they are not on this machine. Print it again when suppliers change, and keep it with
    the sheet that has the words. FILE must be new; without it the text goes to the standard output. Works whether
    the volume is mounted or not.

    \b
    Examples:
      bitdustfs sheet | lp
      bitdustfs sheet sheet.txt
    """
    from bitdustfs.core import sheet as sheets
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    home = asked.open_home()
    owner = identity_of(read_keys(home)).owner
    text = sheets.sheet(owner, hired_places(home), date=today())
    if file is None:
        click.echo(text, nl=False)
    else:
        write_new(Path(file), text.encode())
        click.echo(f"Wrote {file}: print it, and keep it with the sheet that has the words.")


def hired_places(home: Home) -> Sequence[Place]:
    """The suppliers, from the process that serves the home, or from its catalog if there is none."""
    from bitdustfs.core.sheet import Place

    try:
        report = cast(StatusReport, ask(home.control, "status", {"path": "/"}, silence_s=_SILENCE_S))
        unheld = ("candidate", "lost", "fired")  # they hold nothing that a recovery could count on
        hired = [each for each in report["suppliers"] if each["state"] not in unheld]
        return [Place(each["label"], each["node"], each["address"]) for each in hired]
    except NotServed:
        check_free(home)

    from bitdustfs.cli.home_catalog import hired_suppliers

    with hold(home):
        return [Place(row.label, row.node.hex(), row.address) for row in hired_suppliers(home)]
