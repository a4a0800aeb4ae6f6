"""`bitdustfs hire`: take on suppliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import click

from bitdustfs.cli.common import Asked, Size, refuse_reader, show_json, with_common_options, with_json
from bitdustfs.core.report import HireReport
from bitdustfs.core.units import format_size
from bitdustfs.edges.config import parse_address, parse_node
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, check_free, hold
from bitdustfs.errors import BadRequest
from bitdustfs.model import NodeId

_SILENCE_S = 60  # more than the mount gives a supplier to answer
_NODE_BYTES = 32


@click.command(short_help="Take on a supplier whose id and address you know.")
@click.argument("suppliers", metavar="NODEID[@ADDR:PORT]...", nargs=-1, required=True)
@click.option("--size", type=Size(), required=True, help="How much each of them keeps for you.")
@click.option("--name", "--label", "labels", multiple=True, help="What to call it; once for each. Default: s1, s2, …")
@click.option("--candidate", is_flag=True, help="Only agree; it is hired when a supplier is lost.")
@with_json
@with_common_options
def hire(asked: Asked, suppliers: tuple[str, ...], size: int, labels: tuple[str, ...], candidate: bool) -> None:
    """Take on suppliers: both sides sign a contract, and new blocks go there too.

    NODEID@ADDR:PORT is what `bitdustfs serve` prints on the supplier's machine; its owner must have allowed you with
    --allow. Hiring one again changes the size of its contract. Works whether the volume is mounted or not.

    Without an address it must be connected already: one that cannot be dialled dials the mount (give.listen), if its
    own configuration names this machine (dial.NODEID).

    \b
    Examples:
      bitdustfs hire 9c1f…e0@192.0.2.7:4878 --size 50G --name anna
    """
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    if size <= 0:
        raise BadRequest(what="a contract over nothing makes no sense: give a --size")
    if labels and len(labels) != len(suppliers):
        raise BadRequest(what=f"{len(suppliers)} suppliers cannot have {len(labels)} names: give one --name for each")
    places = [parse_place(text) if "@" in text else (parse_node(text), "") for text in suppliers]
    home = asked.open_home()
    refuse_reader(identity_of(read_keys(home)))
    told = _hire(home, places, size, labels or ("",) * len(places), candidate=candidate)
    for report in told:
        if asked.as_json:
            show_json(cast("dict[str, object]", report))
        else:
            space = format_size(report["bytes"])
            done = "Agreed with" if candidate else "Hired"
            where = f" at {report['address']}" if report["address"] else ""
            click.echo(f"{done} {report['label']}{where} for {space}; both signed the contract.")


def parse_place(text: str) -> tuple[NodeId, str]:
    """Read NODEID@ADDR:PORT.

    Raises:
        BadRequest: says which part is wrong.
    """
    node, at, address = text.strip().partition("@")
    try:
        raw = bytes.fromhex(node)
    except ValueError:
        raw = b""
    if not at or len(raw) != _NODE_BYTES:
        raise BadRequest(
            what=f"{text!r} is not NODEID@ADDR:PORT, as `bitdustfs serve` prints it: 64 hex digits, then @"
        )
    parse_address(address)
    return NodeId(raw), address


def _hire(
    home: Home, places: Sequence[tuple[NodeId, str]], size: int, labels: Sequence[str], *, candidate: bool
) -> list[HireReport]:
    """Let the process that serves the home do it, or do it here if there is none."""
    try:
        return [
            cast(
                HireReport,
                ask(
                    home.control,
                    "hire",
                    {"node": node.hex(), "address": address, "bytes": size, "label": label, "candidate": candidate},
                    silence_s=_SILENCE_S,
                ),
            )
            for (node, address), label in zip(places, labels, strict=True)
        ]
    except NotServed:
        check_free(home)
    if not all(address for _node, address in places):
        raise BadRequest(what="a supplier without an address can be hired only while the volume is mounted")

    import trio

    from bitdustfs.cli.hiring import HireWish
    from bitdustfs.cli.logs import log_to_stderr
    from bitdustfs.cli.unmounted import hire_unmounted

    wishes = [
        HireWish(node=node, address=address, bytes=size, label=label, as_candidate=candidate)
        for (node, address), label in zip(places, labels, strict=True)
    ]
    with hold(home):
        log_to_stderr("warning")
        return trio.run(hire_unmounted, home, wishes)
