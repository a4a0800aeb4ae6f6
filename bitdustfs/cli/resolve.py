"""`bitdustfs resolve`: another state of the volume, that lies beside the one that is mounted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import click

from bitdustfs.cli.common import Asked, legible, show_json, with_common_options, with_json
from bitdustfs.core.report import ForkReport, ForksReport
from bitdustfs.core.units import count
from bitdustfs.edges.control import Args, ask
from bitdustfs.errors import EXIT, BadRequest, Kind, NotFound, Unavailable

_SILENCE_S = 300.0  # comparing looks at both trees
_BY_OWN_KEY = "written by a copy of this home, or here before an old copy of this disk was put back"


@click.command(short_help="Choose between two states of the volume.")
@click.argument("name", required=False)
@click.option("--diff", "shows", is_flag=True, help="Show what is different there, name by name, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_json
@with_common_options
@click.pass_context
def resolve(context: click.Context, asked: Asked, name: str | None, shows: bool, yes: bool) -> None:
    """Choose between two states of the volume.

    When two of your machines wrote while they could not see each other, some suppliers may hold another state than
    the one that is mounted. Both are kept, and the other one is in `.forks/NAME/` in the mount, to be read only.

    Without NAME both are shown. With NAME the mounted one goes on: the other one becomes the snapshot NAME, whole, in
    `.snapshots/NAME/`, and suppliers that held it take this one again. To go on with the other one, copy it
    back from there: see the manual page. Ends with 14 if suppliers do not have it yet.

    One that cannot be read any more, or that only a supplier showed which does not answer, is told as such. With its
    NAME it is let be: nothing of it is kept here.

    \b
    Example:
      bitdustfs resolve
      bitdustfs resolve '2026-01-03 10.00 of 5d1f0a77' --diff
      bitdustfs resolve '2026-01-03 10.00 of 5d1f0a77'
    """
    home, _, _ = asked.home_of(None)
    if shows and name is None:
        raise BadRequest(what="--diff needs the NAME of what is compared; `bitdustfs resolve` shows all")
    report = cast(ForksReport, ask(home.control, "forks", silence_s=_SILENCE_S))
    if name is None:
        if asked.as_json:
            show_json({**report})
            return
        for line in lines(report):
            click.echo(line)
        return
    chosen = next((each for each in report["forks"] if each["name"] == name), None)
    if chosen is None:
        raise NotFound(what=f"nothing called {name!r} lies beside the volume; `bitdustfs resolve` shows what does")
    is_lost = bool(chosen["unreadable"])
    if shows and is_lost:
        raise Unavailable(what=f"{name} cannot be read: {chosen['unreadable']}")
    if shows:
        _show_differences(asked, name)
        return
    if is_lost and asked.as_json and not yes:
        raise BadRequest(what=f"{name} cannot be read: to give up what only it has, say so with --yes")
    if is_lost or not (yes or asked.as_json):
        for line in lines({**report, "forks": [chosen]}):
            click.echo(line, err=True)
    if is_lost and not chosen["answers"]:
        click.echo(
            f"It is known from {', '.join(chosen['shown_by']) or 'a supplier'} alone, which does not answer now. "
            "When it answers again, the state may still be fetched, and kept: give it up only if it never will.",
            err=True,
        )
    if is_lost:
        click.echo(
            "What was written there, and is not in the mounted one, is given up for good, but for what the machine "
            "that wrote it still has itself.",
            err=True,
        )
    if not yes and not asked.as_json:
        rest = "give the other one up" if is_lost else "keep the other one as a snapshot"
        click.confirm(f"Go on with the mounted one, and {rest}?", abort=True, err=True)
    answer = ask(home.control, "let-fork-be" if is_lost else "resolve", {"name": name}, silence_s=_SILENCE_S)
    if asked.as_json:
        show_json({"snapshot": answer["name"], "is_safe": answer["is_safe"]})
    else:
        other = "was given up" if is_lost else f"is the snapshot .snapshots/{answer['name']}"
        click.echo(f"The mounted state goes on. The other one {other}.")
    if not answer["is_safe"]:
        click.echo("bitdustfs: suppliers do not have that yet; see `bitdustfs status`", err=True)
        context.exit(EXIT[Kind.UNAVAILABLE])


def lines(report: ForksReport) -> list[str]:
    """Write for a person which states there are."""
    if not report["forks"]:
        return ["There is one state of this volume: nothing is to be chosen."]
    mine = f"mounted: version {report['version']} of {_date(report['time_s'])}, this machine ({report['node'][:8]})"
    return [mine, *(_line(each, report["node"]) for each in report["forks"])]


def _line(fork: ForkReport, own: str) -> str:
    is_own = fork["node"] == own
    who = _BY_OWN_KEY if is_own else f"node {fork['node'][:8]}"
    which = f"{fork['name']}: version {fork['version']} of {_date(fork['time_s'])}, {who}"
    if fork["unreadable"]:
        return f"{which}; it cannot be read now: {fork['unreadable']}"
    return f"{which}; there {count(fork['came'], 'name')} more, {fork['went']} fewer, {fork['changed']} different"


def _date(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M} UTC"


def _show_differences(asked: Asked, name: str) -> None:
    found: list[str] = []

    def show(step: Args) -> None:
        if asked.as_json:
            found.extend(step["lines"])
            return
        for line in step["lines"]:
            click.echo(legible(line))

    ask(asked.home_of(None)[0].control, "fork-diff", {"name": name}, silence_s=_SILENCE_S, progress=show)
    if asked.as_json:
        show_json({"changes": [{"change": line[0], "path": line[2:]} for line in found]})
