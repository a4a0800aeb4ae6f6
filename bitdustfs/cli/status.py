"""`bitdustfs status`: how safe a volume, or one path in it, is. The exit code says it too."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from types import MappingProxyType
from typing import cast

import click

from bitdustfs.cli.common import Asked, moment, show_json, with_common_options, with_json
from bitdustfs.cli.fairness import fairness_lines
from bitdustfs.core.report import PRACTICE_BANNER, StatusReport, SupplierReport, ViewReport, WithoutReport
from bitdustfs.core.units import count, format_eta, format_size
from bitdustfs.edges.control import ask
from bitdustfs.errors import BadRequest
from bitdustfs.model import FileState

_WATCH_S = 2.0
_HOME = "\x1b[H\x1b[J"  # to the corner of the terminal, and wipe what is there
_SILENCE_S = 30  # the mount answers from its catalog; a deep tree takes a while

STATE_EXIT: Mapping[FileState, int] = MappingProxyType(
    {
        FileState.SAFE: 0,
        FileState.PLACED: 30,
        FileState.DEGRADED: 31,
        FileState.LOCAL: 32,
        FileState.LOST: 33,
    }
)

_MEANING: Mapping[FileState, str] = MappingProxyType(
    {
        FileState.SAFE: "survives the loss of this machine and of as many suppliers as the margin says",
        FileState.PLACED: "survives the loss of as many suppliers as the margin says, but not of this machine",
        FileState.DEGRADED: "can be read, but some blocks are on too few suppliers",
        FileState.LOCAL: "something exists only on this machine",
        FileState.LOST: "some bytes are gone: fewer fragments are left than a block needs",
    }
)

_READ_HERE = "survives the loss of as many suppliers as the margin says; the machine that writes knows whether more"
_IN_PRACTICE = "would survive the loss of this machine, were the suppliers not on it"


@click.command()
@click.argument("path", required=False)
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until interrupted.")
@click.option("--without", metavar="NAME", help="Say what would be if this supplier went now.")
@with_json
@with_common_options
def status(asked: Asked, path: str | None, watch: bool, without: str | None) -> int:
    """Say how safe the files are.

    PATH is a file or directory in the mount; without it the whole volume of the home is meant.

    \b
    The exit code is that of the worst state:
       0  safe       survives this machine, and `margin` suppliers
      30  placed     survives `margin` suppliers, but not this machine
      31  degraded   can be read, but some blocks are on too few suppliers
      32  local      something exists only on this machine
      33  lost       some bytes are gone

    \b
    Examples:
      bitdustfs status
      bitdustfs status ~/BitDust/letters --json
      bitdustfs status --without anna
    """
    if without is not None:
        return _without(asked, path, without, watch)
    if not watch:
        return _show(asked, path)
    try:
        while True:
            shown = io.StringIO()
            with redirect_stdout(shown):
                _show(asked, path)
            # one write, so that nothing flickers; what was below is wiped
            click.echo((_HOME if sys.stdout.isatty() else "") + shown.getvalue(), nl=not sys.stdout.isatty())
            time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return 0


def _show(asked: Asked, path: str | None) -> int:
    home, mount, inside = asked.home_of(path)
    report = cast(StatusReport, ask(home.control, "status", {"path": inside}, silence_s=_SILENCE_S))
    state = FileState(report["state"])
    if asked.as_json:
        show_json({**report, "home": str(home), "mountpoint": mount.mountpoint if mount else None})
    else:
        for line in lines(report, mount.mountpoint if mount else str(home)):
            click.echo(line)
    return STATE_EXIT[state]


def _without(asked: Asked, path: str | None, label: str, watch: bool) -> int:
    if path is not None or watch:
        raise BadRequest(what="--without speaks of the whole volume, once: give neither PATH nor --watch with it")
    home, _, _ = asked.home_of(None)
    report = cast(WithoutReport, ask(home.control, "without", {"label": label}, silence_s=None))
    if asked.as_json:
        show_json({**report})
    else:
        for line in lines_without(report):
            click.echo(line)
    state = FileState(report["state"])
    return 0 if state is FileState.PLACED else STATE_EXIT[state]


def lines_without(report: WithoutReport) -> list[str]:
    """Write for a person what would be without a supplier."""
    holds = f"{count(report['fragments'], 'fragment')}, {format_size(report['used_bytes'])}"
    shown = [f"Without {report['label']}, which holds {holds}:"]
    if report["files_lost"]:
        lost = f"{count(report['files_lost'], 'file')}, {format_size(report['bytes_lost'])}"
        shown.append(f"  lost       {lost}: fewer fragments would be left than their blocks need")
        shown += [f"               {path}" for path in report["examples"]]
        if report["files_lost"] > len(report["examples"]):
            shown.append(f"               and {report['files_lost'] - len(report['examples'])} more")
    elif report["blocks_lost"]:
        lost = count(report["blocks_lost"], "block")
        shown.append(f"  lost       nothing, but {lost} would be left on this machine only")
    else:
        shown.append("  lost       nothing")
    if report["wanted"]:
        shown.append(
            f"  blocks     the worst would have {report['held']} of {report['wanted']} fragments: {_worst(report)}"
        )
        shown.append(f"  margin     {report['margin']}: {_margin(report['margin'])}")
    if report["fragments"] and not report["blocks_lost"]:
        if report["others"] >= report["most_wanted"]:
            shown.append("  repair     others could take what it holds")
        else:
            missing = count(report["most_wanted"] - report["others"], "supplier")
            shown.append(f"  repair     nobody could take what it holds: hire {missing} first")
    return shown


def lines(report: StatusReport, place: str) -> list[str]:
    """Write a report for a person."""
    state = FileState(report["state"])
    meaning = _IN_PRACTICE if report["practice"] and state is FileState.SAFE else _MEANING[state]
    if "view" in report and state is FileState.PLACED:
        meaning = _READ_HERE  # in the state that it shows, what was brought last is not told yet
    shown = [f"{place}{report['path'] if report['path'] != '/' else ''}: {state.value} - {meaning}"]
    if report["practice"]:
        shown.append(PRACTICE_BANNER)
    if "view" in report:
        shown.append(_view_line(report["view"]))
    things = "file or folder" if report["files"] == 1 else "files and folders"
    shown.append(f"  holds      {report['files']} {things}, {format_size(report['bytes'])}")
    shown.append(f"  of these   {_shares(report)}")
    if report["files_local"]:
        waiting = f"{count(report['files_local'], 'file')}, {format_size(report['bytes_local'])}"
        shown.append(f"  only here  {waiting}")
    if report["blocks"]:
        full = ", full" if report["held"] >= report["wanted"] else ""
        shown.append(
            f"  blocks     {report['blocks']}; the worst has {report['held']} of {report['wanted']} fragments{full}: "
            + _worst(report)
        )
        shown.append(f"  margin     {report['margin']}: {_margin(report['margin'])}")
    if report["missing_fragments"]:
        shown.append(f"  repair     {_repair(report)}")
    if report["snapshots"]:
        they = "it has" if report["snapshots"] == 1 else "they have"
        shown.append(f"  snapshots  {report['snapshots']}; only {they} {format_size(report['snapshot_bytes'])}")
    if report["forks"]:
        much = format_size(report["fork_bytes"])
        shown.append(
            f"  forks      {report['forks']}, with {much} that are not in the volume: see `bitdustfs resolve`"
        )
    shown.append(f"  spool      {format_size(report['spool_bytes'])} of {format_size(report['spool_limit_bytes'])}")
    shown += _code_lines(report)
    if report["suppliers"] and not report["recovery_checked_s"]:
        shown.append(
            "  recovery   never tried: `bitdustfs recover --check` shows that your words bring everything back"
        )
    shown += [supplier_line(supplier) for supplier in report["suppliers"]]
    if report["path"] == "/":
        shown += fairness_lines(report["fairness"])
    shown += [f"  trouble: {sentence}" for sentence in report["trouble"]]
    return shown


def _shares(report: StatusReport) -> str:
    """How many bytes are how safe. Safe ones are told even if there are none."""
    told = [
        (report["bytes_safe"], "safe"),
        (report["bytes_placed"], "placed"),
        (report["bytes_degraded"], "on too few suppliers"),
        (report["bytes_local"], "only here"),
        (report["bytes_lost"], "lost"),
    ]
    shown = ", ".join(f"{format_size(size)} {word}" for at, (size, word) in enumerate(told) if size or not at)
    is_behind = report["state"] == FileState.PLACED.value and not report["bytes_placed"] and "view" not in report
    return shown + ("; the newest state of the catalog is not safe yet" if is_behind else "")


def _worst(report: StatusReport | WithoutReport) -> str:
    """How many fragments the worst block is made of; what may fail is the margin, for holders may be silent."""
    needed = report["needed"]
    if report["held"] < needed:
        return f"it needs {needed}, and suppliers cannot restore it"
    return f"any {needed} {'restores' if needed == 1 else 'restore'} it"


def _repair(report: StatusReport) -> str:
    """What is to be made again, how fast that goes, and how long it takes."""
    told = [f"{count(report['missing_fragments'], 'fragment')} to make again"]
    if report["path"] != "/":
        return told[0]
    told[0] += f" ({format_size(report['missing_bytes'])})"
    if report["repairing"]:
        told.append(f"at work on {count(report['repairing'], 'block')}")
    if report["repair_bytes_per_s"]:
        told.append(f"{format_size(round(report['repair_bytes_per_s']))} a second so far")
    if report["refusing"]:
        takes = "takes" if len(report["refusing"]) == 1 else "take"
        told.append(f"{', '.join(report['refusing'])} {takes} none before you have chosen with `bitdustfs resolve`")
    elif report["repair_eta_s"] >= 0:
        told.append(f"about {format_eta(report['repair_eta_s'])} left")
    elif "view" in report:
        told.append("the machine that writes makes them, if it has not")
    elif not report["repairing"]:
        told.append("`bitdustfs rebuild --dry-run` says why it waits")
    return "; ".join(told)


def _view_line(view: ViewReport) -> str:
    """What a machine shows that only reads."""
    heard = "" if view["answering"] >= view["needed"] else "; a newer one may exist"
    return (
        f"  reader     shows version {view['version']} of {moment(view['time_s'])}, "
        f"written by node {view['writer'][:8]}{heard}"
    )


def _code_lines(report: StatusReport) -> list[str]:
    """What code is in force, what codes the blocks have, and what is or could be done about it."""
    shown = [f"  code       {report['code'] or 'none yet: no supplier is hired'}"]
    others = {code: blocks for code, blocks in report["codes"].items() if code != report["code"]}
    if others and report["code"]:
        told = ", ".join(f"{count(blocks, 'block')} {_have(blocks)} {code}" for code, blocks in others.items())
        shown[0] += f" for what is written now; {told}"
    if report["unlike_blocks"]:
        should = f"{count(report['unlike_blocks'], 'block')} should have another K"
        shown.append(f"  recode     {should}: see `bitdustfs recode --help`")
    if report["recode_blocks"]:
        blocks = report["recode_blocks"]
        left = f"{count(blocks, 'block')} ({format_size(report['recode_bytes'])})"
        shown.append(f"  recode     {left} {'is' if blocks == 1 else 'are'} still to be coded anew")
    return shown


def _have(blocks: int) -> str:
    return "has" if blocks == 1 else "have"


def supplier_line(supplier: SupplierReport) -> str:
    """Write one supplier for a person."""
    answers = "silent" if supplier["state"] == "hired" and not supplier["answers"] else supplier["state"]
    used = f"{format_size(supplier['used_bytes'])} of {format_size(supplier['capacity_bytes'])}"
    since = f"  since {moment(supplier['since_s'])}" if supplier["since_s"] else ""
    known = f"{since}  score {supplier['score']}{_audited(supplier)}"
    if supplier["ends_s"] and supplier["used_bytes"]:
        known += f"  contract ends {moment(supplier['ends_s'])}, counts until {moment(supplier['counts_until_s'])}"
    return f"  supplier   {answers:<9}  {supplier['label']}  {supplier['address']}  {used}{known}"


def _margin(margin: int) -> str:
    if margin < 0:
        return "reads of what is not here fail until suppliers answer again"
    if margin == 0:
        return "if one more supplier fails, reads fail"
    return f"{count(margin, 'more supplier')} may fail before reads fail"


def _audited(supplier: SupplierReport) -> str:
    if not supplier["audited_s"]:
        return ""
    wrong = f", {count(supplier['audits_wrong'], 'fragment')} wrong so far" if supplier["audits_wrong"] else ""
    return f"  audited {moment(supplier['audited_s'])}{wrong}"
