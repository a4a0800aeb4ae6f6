"""`bitdustfs audit`: ask suppliers for all that they should hold."""

from __future__ import annotations

from typing import cast

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json
from bitdustfs.cli.counting import Step, counted
from bitdustfs.core.report import AuditReport
from bitdustfs.core.units import count
from bitdustfs.edges.control import ask

EXIT_FOUND = 35  # something was wrong or gone


@click.command(short_help="Have suppliers show everything that they should hold.")
@click.argument("name", required=False)
@with_json
@with_common_options
def audit(asked: Asked, name: str | None) -> int:
    """Ask a supplier, or all of them, for everything that they should hold, and check it.

    Small audits happen all the time; this one fetches all. What is wrong or gone is made again.

    \b
    Exit codes: 0 all of it is there, 35 something was wrong or gone, or a supplier did not answer.

    \b
    Examples:
      bitdustfs audit
      bitdustfs audit anna
    """
    home, _, _ = asked.home_of(None)
    with counted("asking", _told) as progress:
        answer = ask(home.control, "audit", {"label": name or ""}, silence_s=None, progress=progress)
    reports = cast("list[AuditReport]", answer["suppliers"])
    if asked.as_json:
        show_json(answer)
    else:
        for report in reports:
            click.echo(sentence(report))
    return EXIT_FOUND if any(report["wrong"] or report["refused"] or report["silent"] for report in reports) else 0


def sentence(report: AuditReport) -> str:
    """Say how the audit of one supplier went."""
    fragments = count(report["fragments"], "fragment")
    if report["wrong"]:
        said = f"{report['wrong']} of {fragments} are wrong or gone, and are made again"
    else:
        said = f"all of {fragments} there" if report["fragments"] else "nothing to ask for"
    if report["refused"]:
        others = f" of {fragments}" if not report["wrong"] else ""
        refused = f"{report['refused']}{others} it neither gave nor denied"
        said = f"{said}; {refused}" if report["wrong"] else refused
    return f"{report['label']}: {said}" + ("; then it did not answer." if report["silent"] else ".")


def _told(step: Step) -> str:
    return f"{count(int(step['fragments']), 'fragment')}, {step['wrong']} wrong"
