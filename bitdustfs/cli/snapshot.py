"""`bitdustfs snapshot`: the volume as it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import click

from bitdustfs.cli.common import Asked, Seconds, legible, show_json, with_common_options, with_json
from bitdustfs.core.report import SnapshotMade, SnapshotsReport
from bitdustfs.core.units import count, format_size
from bitdustfs.edges.control import Args, ask
from bitdustfs.errors import EXIT, Kind

_SILENCE_S = 300.0  # counting what snapshots hold looks at all that is not of now
_WAIT_S = 60.0


@click.group()
def snapshot() -> None:
    """Keep the whole volume as it is now, and look at it later.

    In the mount, `.snapshots/NAME/` at the top shows what was there, to be read only: with `cp` anything comes back
    that was deleted or written over. `ls` does not list `.snapshots`, so that copies of the volume leave it out.
    A snapshot is made at once, and costs what changes after it. They are also made without being asked for, each hour
    in which something changed, and these are thinned by age: `snapshots.hourly`, `.daily`, `.weekly` and
    `.monthly` of `bitdustfs config` say how many of them are kept.
    """


@snapshot.command()
@click.argument("name", required=False)
@click.option(
    "--wait", "wait_s", type=Seconds(), default=_WAIT_S, help="For what is not at suppliers yet. Default: 60s."
)
@with_json
@with_common_options
@click.pass_context
def create(context: click.Context, asked: Asked, name: str | None, wait_s: float) -> None:
    """Make a snapshot, called NAME or by its time.

    A snapshot shows what suppliers have. So this first sends what was written last, for a minute at most. Ends with
    14 if some files are in the snapshot as they were before, or not at all, because they could not be sent in time.

    \b
    Example:
      bitdustfs snapshot create before-cleaning-up
    """
    home, _, _ = asked.home_of(None)
    answer = ask(home.control, "snapshot-create", {"name": name, "wait_s": wait_s}, silence_s=wait_s + _SILENCE_S)
    made = cast(SnapshotMade, answer)
    if asked.as_json:
        show_json(answer)
    else:
        click.echo(f"Made the snapshot {made['name']}. It is at .snapshots/{made['name']} in the mount.")
    if made["files_before"]:
        click.echo(
            f"bitdustfs: {count(made['files_before'], 'file')} could not be sent in time, and the snapshot has the "
            "versions before, or nothing of what is new; see `bitdustfs status`",
            err=True,
        )
        context.exit(EXIT[Kind.UNAVAILABLE])


@snapshot.command("list")
@with_json
@with_common_options
def list_all(asked: Asked) -> None:
    """List the snapshots, the oldest first, and what they hold.

    The last column is what would be freed if this one alone was deleted. What several snapshots have in common is
    freed with the last of them, so the sum of all may be more.
    """
    home, _, _ = asked.home_of(None)
    answer = ask(home.control, "snapshot-list", silence_s=_SILENCE_S)
    if asked.as_json:
        show_json(answer)
        return
    for line in lines(cast(SnapshotsReport, answer)):
        click.echo(line)


@snapshot.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--to", metavar="NAME", help="And all that were made after the first, up to this one, which goes too.")
@with_json
@with_common_options
def delete(asked: Asked, names: tuple[str, ...], to: str | None) -> None:
    """Delete snapshots, all that are named or none. What only they had is let go in the background.

    \b
    Example:
      bitdustfs snapshot delete auto-2026-01-03T10.00.12Z --to auto-2026-01-05T09.00.07Z
    """
    home, _, _ = asked.home_of(None)
    answer = ask(home.control, "snapshot-delete", {"names": list(names), "to": to}, silence_s=_SILENCE_S)
    deleted = [str(name) for name in answer["names"]]
    if asked.as_json:
        show_json({"deleted": deleted})
        return
    for name in deleted:
        click.echo(f"Deleted the snapshot {name}.")


@snapshot.command(short_help="Show what is different from A to B.")
@click.argument("one", metavar="A")
@click.argument("two", metavar="B", default="now")
@with_json
@with_common_options
def diff(asked: Asked, one: str, two: str) -> None:
    """Show what is different from A to B: names of snapshots, or `now`, which is B when it is left out.

    Each line is one name: + it came, - it went, M it was written anew, perhaps the same, or is another file now,
    A it has another mode, owner or extended attributes. Directories end in /. A line end in a name is written as \\n,
    other control characters like \\x1b, and a backslash as two; --json has the name itself.
    """
    home, _, _ = asked.home_of(None)
    found: list[str] = []

    def show(step: Args) -> None:
        if asked.as_json:
            found.extend(step["lines"])
            return
        for line in step["lines"]:
            click.echo(legible(line))

    ask(home.control, "snapshot-diff", {"one": one, "two": two}, silence_s=_SILENCE_S, progress=show)
    if asked.as_json:
        show_json({"changes": [{"change": line[0], "path": line[2:]} for line in found]})


def lines(report: SnapshotsReport) -> list[str]:
    """Write for a person which snapshots there are."""
    shown = report["snapshots"]
    rest = []
    if report["fork_bytes"]:
        much = format_size(report["fork_bytes"])
        rest = [f"Beside them .forks has {much}, which no snapshot frees: choose with `bitdustfs resolve`."]
    if not shown:
        return ["There is no snapshot. `bitdustfs snapshot create` makes one.", *rest]
    width = max(len(each["name"]) for each in shown)
    table = [
        f"{each['name']:{width}}  {datetime.fromtimestamp(each['made_s'], UTC):%Y-%m-%d %H:%M} UTC  "
        f"{'automatic' if each['automatic'] else 'by hand  '}  {format_size(each['alone_bytes'])}"
        for each in shown
    ]
    they = "it has" if len(shown) == 1 else "they have"
    return [*table, f"{count(len(shown), 'snapshot')}; only {they} {format_size(report['held_bytes'])}.", *rest]
