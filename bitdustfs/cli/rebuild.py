"""`bitdustfs rebuild --dry-run`: what would be made again now and why, and why suppliers were replaced."""

from __future__ import annotations

from typing import cast

import click

from bitdustfs.cli.common import Asked, moment, show_json, with_common_options, with_json
from bitdustfs.core.report import BlockReport, LackReport, ReasonReport, RebuildReport, VerdictReport
from bitdustfs.core.units import count, format_eta, format_size
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, hold
from bitdustfs.errors import BadRequest, NotFound

SHOWN = 10  # blocks, and decisions, unless --all
_SINCE = {
    "silence": "{whose} is lost: silent for longer than we wait",
    "proof": "{whose} denied them, or had them wrong: proof",
    "unsent": "{whose} never acknowledged them",
    "none": "nobody was to hold them yet",
}


@click.command(short_help="Say what is made again now, and why.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done. Doing it needs no command.")
@click.option("--all", "whole", is_flag=True, help=f"Every decision that is known, not only the last {SHOWN}.")
@with_json
@with_common_options
def rebuild(asked: Asked, dry_run: bool, whole: bool) -> None:
    """Say what is made again now, from what, for whom, and why; and why suppliers were replaced.

    Rebuilding happens by itself while the volume is mounted, so there is only --dry-run. It asks the process that
    serves the mount, and changes nothing. Of a volume that is not mounted it says what is known here: what is
    missing and why, not who would take it.

    \b
    Examples:
      bitdustfs rebuild --dry-run
      bitdustfs rebuild --dry-run --json
    """
    if not dry_run:
        raise BadRequest(what="rebuilding happens by itself: --dry-run says what is done, and why")
    home, _, _ = asked.home_of(None)
    try:
        report = cast(RebuildReport, ask(home.control, "rebuild", silence_s=None))
    except NotServed:
        report = _unmounted(home)
    if asked.as_json:
        show_json({**report})
        return
    for line in lines(report, shown=None if whole else SHOWN):
        click.echo(line)


def lines(report: RebuildReport, *, shown: int | None = SHOWN) -> list[str]:
    """Write a forecast for a person.

    Args:
        shown: at most so many blocks and decisions; None: all that there are.
    """
    told = []
    if not report["mounted"]:
        told.append("The volume is not mounted: this is what its catalog says. Nobody was asked.")
    if not report["fragments"]:
        told.append("Nothing is to be rebuilt: every block has all its fragments.")
    else:
        lacking = count(report["blocks"], "block") + (" lacks " if report["blocks"] == 1 else " lack ")
        told.append(f"{lacking}{count(report['fragments'], 'fragment')}:")
        told += [
            f"  why        {count(each['fragments'], 'fragment')}: {_because(each)}" for each in report["reasons"]
        ]
        told += _work(report) if report["mounted"] else []
    told += [f"  but        {sentence}" for sentence in report["held_up"]]
    worst = report["worst"][:shown]
    told += [f"  {'first' if at == 0 else 'then':<10} {_block(block)}" for at, block in enumerate(worst)]
    if report["blocks"] > len(worst):
        told.append(f"             and {report['blocks'] - len(worst)} more")
    return told + _decisions(report["verdicts"], shown)


# -- private -------------------------------------------------------------------------------------------------


def _unmounted(home: Home) -> RebuildReport:
    import trio

    from bitdustfs.edges.catalog_sqlite import SqliteCatalog
    from bitdustfs.engine.forecast import Forecast

    if not home.catalog.exists():
        raise NotFound(what=f"there is no catalog in {home}: the volume was never mounted here, or it is elsewhere")
    with hold(home):
        catalog = SqliteCatalog(home.catalog, read_only=True)
        try:
            return trio.run(Forecast(catalog).rebuild)
        finally:
            catalog.close()


def _work(report: RebuildReport) -> list[str]:
    """What would be done, from what, how long it takes, and who gets it."""
    told = [
        f"  now        {count(report['possible'], 'fragment')}, {format_size(report['send_bytes'])} to send"
        f"{_from(report)}{_time(report)}"
    ]
    return told + [
        f"  to         {each['label']}: {count(each['fragments'], 'fragment')}, {format_size(each['bytes'])}"
        for each in report["takers"]
    ]


def _from(report: RebuildReport) -> str:
    here = f"; {count(report['blocks_here'], 'block')} from what is on this machine" if report["blocks_here"] else ""
    fetched = f"; {format_size(report['fetch_bytes'])} to fetch for them" if report["fetch_bytes"] else ""
    return here + fetched


def _time(report: RebuildReport) -> str:
    if report["eta_s"] < 0:
        return "; how long that takes is not known yet"
    if not report["send_bytes"]:
        return ""
    return f"; about {format_eta(report['eta_s'])}, at {format_size(round(report['bytes_per_s']))} a second"


def _because(each: ReasonReport) -> str:
    whose = each["whose"] or "a supplier that is not known any more"
    since = f", since {moment(each['since_s'])}" if each["since_s"] else ""
    return _SINCE[each["why"]].format(whose=whose) + since


def _block(block: BlockReport) -> str:
    name = f"block {block['block']}" if block["block"] > 0 else f"block {-block['block']} of the catalog's own copy"
    source = "this machine" if block["is_here"] else ", ".join(block["sources"]) or "nobody who answers"
    has = f"{block['held']} of {block['wanted']} fragments held, {block['needed']} needed"
    return f"{name}: {has}; from {source}; {', '.join(map(_lack, block['lacks']))}"


def _lack(lack: LackReport) -> str:
    where = f"to {lack['to']}" if lack["to"] else "to nobody yet"
    whose = f", was {lack['whose']}'s" if lack["whose"] else ""
    return f"fragment {lack['index']} {where} ({lack['why']}{whose})"


def _decisions(verdicts: list[VerdictReport], shown: int | None) -> list[str]:
    if not verdicts:
        return ["No decision about a supplier is known here."]
    some = verdicts if shown is None else verdicts[-shown:]
    left_out = (
        f" (the last {len(some)} of {len(verdicts)}; --all shows them all)" if len(some) < len(verdicts) else ""
    )
    return [
        f"What was decided about suppliers{left_out}:",
        *(f"  {moment(each['at_s'])}  {each['says']}" for each in some),
    ]
