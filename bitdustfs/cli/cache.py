"""`bitdustfs cache`: the local copy of what is at suppliers."""

from __future__ import annotations

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json
from bitdustfs.core.units import format_size
from bitdustfs.edges.control import ask

_SILENCE_S = 120  # a large spool has many files to punch


@click.group()
def cache() -> None:
    """Look after the local copy of what is at suppliers."""


@cache.command()
@click.argument("path", required=False)
@with_json
@with_common_options
def drop(asked: Asked, path: str | None) -> None:
    """Forget the local copy of everything that is at suppliers.

    The next read of it comes from them. What is not there yet stays here. PATH is anything in the mount; without it
    the home of --home is meant.
    """
    home, _, _ = asked.home_of(path)
    report = ask(home.control, "cache-drop", silence_s=_SILENCE_S)
    if asked.as_json:
        show_json(report)
    else:
        click.echo(f"Dropped {format_size(int(report['dropped_bytes']))} of local copies.")
