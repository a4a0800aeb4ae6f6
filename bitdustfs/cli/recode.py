"""`bitdustfs recode`: have what is stored coded anew, where it is to have another K."""

from __future__ import annotations

from typing import cast

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json
from bitdustfs.cli.counting import Step, counted
from bitdustfs.core.report import RecodeReport
from bitdustfs.core.units import count, format_size
from bitdustfs.edges.control import ask


@click.command(short_help="Have files coded anew that should have another code.")
@click.argument("path", required=False)
@click.option("--dry-run", is_flag=True, help="Only say how much it is, and what it costs to send.")
@with_json
@with_common_options
def recode(asked: Asked, path: str | None, dry_run: bool) -> None:
    """Have files coded anew whose blocks have another K than they should: the K of a code K/N, any K of N.

    PATH is a file or directory in the mount; without it the whole volume of the home is meant. A file should have
    the code of the volume (`mount --code`, or by the number of suppliers), or of its folder (user.bitdustfs.code).
    Another N needs no command: fragments are added or let go in the background.

    Files are sent again, in the background, also over restarts, and can be read all the while; the old blocks are let
    go when the new ones are safe. `bitdustfs status` says how much is left.

    \b
    Examples:
      bitdustfs recode --dry-run
      bitdustfs recode ~/BitDust/photos
    """
    home, _, inside = asked.home_of(path)
    with counted("looking", _told) as progress:
        answer = ask(home.control, "recode", {"path": inside, "dry": dry_run}, silence_s=None, progress=progress)
    if asked.as_json:
        show_json(answer)
        return
    for line in lines(cast(RecodeReport, answer), is_dry=dry_run):
        click.echo(line)


def lines(report: RecodeReport, *, is_dry: bool) -> list[str]:
    """Write for a person what is coded anew."""
    if not report["blocks"]:
        return ["Nothing is to be coded anew: all blocks have the K that they should have."]
    much = f"{count(report['files'], 'file')}, {format_size(report['bytes'])} in {count(report['blocks'], 'block')}"
    shown = [f"{much}, should have another K:"]
    shown += [f"  {each['old']} -> {each['new']}  {format_size(each['bytes'])}" for each in report["changes"]]
    shown.append(f"To send: {format_size(report['send_bytes'])}.")
    if is_dry:
        shown.append("Nothing was changed. Without --dry-run it is done in the background.")
    else:
        shown.append("It is done in the background. `bitdustfs status` says how much is left.")
    return shown


def _told(step: Step) -> str:
    return f"{count(int(step['looked_at']), 'file')}, {step['blocks']} blocks"
