"""`bitdustfs join`: use a friend's invitation."""

from __future__ import annotations

import sys
from typing import cast

import click

from bitdustfs.cli.common import Asked, Size, refuse_reader, show_json, with_common_options, with_json
from bitdustfs.cli.reaching import reach_lines
from bitdustfs.core.report import JoinReport
from bitdustfs.core.units import format_size
from bitdustfs.edges.config import load
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, check_free, hold
from bitdustfs.model import OwnerId

_SILENCE_S = 60  # more than the friend's machine gets to answer
_LINE_CHARACTERS = 400  # more than any line has, however it was typed


@click.command(short_help="Use a friend's invitation.")
@click.argument("line", nargs=-1, required=True)
@click.option(
    "--offer",
    type=Size(),
    help="Keep up to so much for him. Default: what he needs, as far as give.size has it.",
)
@click.option("--need", type=Size(), help="Store up to so much with him. Default: what he offers.")
@click.option("--name", help="What to call the friend here. Default: friend1, friend2, …")
@with_json
@with_common_options
def join(asked: Asked, line: tuple[str, ...], offer: int | None, need: int | None, name: str | None) -> None:
    """Use a friend's invitation: both sign what each keeps for the other, and both begin to use it.

    LINE is what `bitdustfs invite` showed there; spaces, hyphens and small letters do not matter. With - it is asked
    for, or read from the standard input. If it is interrupted, join again with the same line. Works whether the
    volume is mounted or not.

    \b
    Examples:
      bitdustfs join - --name anna
      bitdustfs join 3HY4-RHSX-178V-… --offer 50G
    """
    from bitdustfs.cli.amounts import check_disk, left
    from bitdustfs.core.friends import check_name
    from bitdustfs.core.invitation import read_line
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    home = asked.open_home()
    refuse_reader(identity_of(read_keys(home)))
    name = check_name(name) if name is not None else ""
    text = _read(line)
    read_line(text)  # a slip is told before anybody is dialled
    if line != ("-",):
        click.echo("(Others here could see the line in the list of processes; `join -` asks for it.)", err=True)
    offers = left(home) if offer is None else offer
    check_disk(home, offers)
    report = _join(home, text, offers, need, name)
    if asked.as_json:
        show_json(cast("dict[str, object]", report))
        return
    for said in _lines(report):
        click.echo(said)


def _read(line: tuple[str, ...]) -> str:
    if line != ("-",):
        return " ".join(line)
    if sys.stdin.isatty():
        return str(click.prompt("Invitation", prompt_suffix=": "))
    return sys.stdin.read(_LINE_CHARACTERS)


def _join(home: Home, line: str, offer: int, need: int | None, name: str) -> JoinReport:
    """Let the process that serves the home do it, or do it here if there is none."""
    from bitdustfs.core.invited import ANY, Wish

    needs = ANY if need is None else need
    try:
        given = {"line": line, "offer": offer, "need": needs, "name": name}
        return cast(JoinReport, ask(home.control, "join", given, silence_s=_SILENCE_S))
    except NotServed:
        check_free(home)

    import trio

    from bitdustfs.cli.befriending import JoinWish
    from bitdustfs.cli.logs import log_to_stderr
    from bitdustfs.cli.unmounted import join_unmounted

    with hold(home):
        log_to_stderr("warning")
        return trio.run(join_unmounted, home, JoinWish(line, Wish(offer, needs), name), load(home.config).give_listen)


def _lines(report: JoinReport) -> list[str]:
    from bitdustfs.core.phrase import fingerprint

    owner = OwnerId(bytes.fromhex(report["owner"]))
    begun = "You were friends already" if report["was_done"] else "Joined"
    gives, takes = format_size(report["gives_bytes"]), format_size(report["takes_bytes"])
    lines = [
        f"{begun}: {report['name']}, fingerprint {fingerprint(owner)}, at {report['address']}.",
        f"{report['name']} gives you {gives}; you give {takes}. Both signed the contract.",
    ]
    if report["reached"]:
        lines.append(f"{report['name']} can dial this machine at {report['reached']}.")
    elif report["listens"]:
        lines.append(f"{report['name']} could not dial this machine; it dials there, which is enough for you two.")
        lines += reach_lines(report["listens"])
    else:
        lines.append("This machine dials there, and listens nowhere (give.listen).")
    return lines
