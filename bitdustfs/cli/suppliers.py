"""`bitdustfs suppliers`: who keeps something for us; let one leave, or stay after all."""

from __future__ import annotations

from typing import cast

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json
from bitdustfs.cli.status import supplier_line
from bitdustfs.core.report import LeaveReport, StatusReport
from bitdustfs.core.units import count, format_size
from bitdustfs.edges.control import ask

_SILENCE_S = 30


@click.group(invoke_without_command=True)
@with_json
@with_common_options
@click.pass_context
def suppliers(context: click.Context, asked: Asked) -> None:
    """List the suppliers, or give one of them up.

    \b
    Examples:
      bitdustfs suppliers
      bitdustfs suppliers leave anna
    """
    if context.invoked_subcommand is not None:
        return
    home, _, _ = asked.home_of(None)
    report = cast(StatusReport, ask(home.control, "status", {"path": None}, silence_s=_SILENCE_S))
    if asked.as_json:
        show_json({"suppliers": report["suppliers"]})
        return
    for supplier in report["suppliers"]:
        click.echo(supplier_line(supplier).strip())
    if not report["suppliers"]:
        click.echo("No supplier is hired. See `bitdustfs invite --help`.")


@suppliers.command()
@click.argument("name")
@with_json
@with_common_options
def leave(asked: Asked, name: str) -> None:
    """Give a supplier up, with no moment of fewer copies.

    What it keeps is brought to others first, in the background, also over restarts; then it is given up, and lets go
    what it had. `bitdustfs status` says how far that is. Refused where the others are too few, or have too little
    room. One that does not answer may leave too: what it keeps is made again from the others. One that is lost is
    given up at once, but not while something can be read again only if it comes back.
    """
    report = _asked(asked, "leave", name)
    if asked.as_json:
        show_json(cast("dict[str, object]", report))
    elif report["state"] == "fired":
        click.echo(f"{name} is given up.")
    else:
        much = f"{count(report['fragments'], 'fragment')}, {format_size(report['bytes'])}"
        click.echo(f"{name} is leaving: {much} are brought to others. `bitdustfs status` says how far that is.")


@suppliers.command()
@click.argument("name")
@with_json
@with_common_options
def stay(asked: Asked, name: str) -> None:
    """Keep a supplier that was to leave. What was brought to others stays there."""
    report = _asked(asked, "stay", name)
    if asked.as_json:
        show_json(cast("dict[str, object]", report))
    else:
        click.echo(f"{name} stays.")


def _asked(asked: Asked, verb: str, name: str) -> LeaveReport:
    home, _, _ = asked.home_of(None)
    return cast(LeaveReport, ask(home.control, verb, {"label": name}, silence_s=_SILENCE_S))
