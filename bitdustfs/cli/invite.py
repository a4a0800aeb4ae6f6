"""`bitdustfs invite`: one line that brings a friend in."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bitdustfs.cli.common import (
    Asked,
    Seconds,
    Size,
    moment,
    refuse_reader,
    show_json,
    with_common_options,
    with_json,
)
from bitdustfs.cli.reaching import reach_lines, reached_from_elsewhere, tried_now
from bitdustfs.core.units import format_size
from bitdustfs.edges.config import DEFAULT_PORT, load, parse_address, store
from bitdustfs.edges.home import Home, holder
from bitdustfs.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from bitdustfs.core.invited import Invitation

_LONGEST_S = 365 * 86400.0
_EVERYWHERE = f"0.0.0.0:{DEFAULT_PORT}"


@click.group(invoke_without_command=True, short_help="Make a line that brings one friend in.")
@click.option("--offer", type=Size(), help="Keep up to so much for him. Default: what give.size has left, or 10G.")
@click.option("--need", type=Size(), help="Store up to so much with him. Default: as much as you offer.")
@click.option("--name", help="What to call the friend here.")
@click.option("--expires", type=Seconds(), default="7d", show_default=True, help="How long the line is good.")
@click.option("--address", metavar="ADDR:PORT", help="Where the friend dials you, if that cannot be found out here.")
@with_json
@with_common_options
@click.pass_context
def invite(
    context: click.Context,
    asked: Asked,
    offer: int | None,
    need: int | None,
    name: str | None,
    expires: float,
    address: str | None,
) -> None:
    """Make a line that brings one friend in, to be told over a telephone or shown as a QR code.

    The friend types `bitdustfs join LINE`. Then both have signed what each keeps for the other, and both begin to use
    it. The line is good once, for one machine. This machine must be mounted or served when he joins, and one of you
    must be able to dial the other.

    \b
    Examples:
      bitdustfs invite --offer 50G --name anna
      bitdustfs invite list
    """
    if context.invoked_subcommand is not None:
        return
    from bitdustfs.cli.amounts import check_disk, give_at_least, left, promised
    from bitdustfs.core.friends import check_name
    from bitdustfs.core.invitation import FRONT_BYTES, TOKEN_BYTES, Line, ticket_of, write_line
    from bitdustfs.core.invited import Invitation, Wish
    from bitdustfs.edges.invitations_disk import DiskInvitations
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    home = asked.open_home()
    identity = identity_of(read_keys(home))
    refuse_reader(identity)
    name = check_name(name) if name is not None else ""
    if name:
        _refuse_taken(home, name)
    if not 0 < expires <= _LONGEST_S:
        raise BadRequest(what="an invitation is good for more than no time, and a year at most")
    tried = tried_now(home) if address is None and listening_at(home) else ()
    host, port, is_served = where_dialled(home, address or reached_from_elsewhere(tried))
    offers = offer if offer is not None else left(home)
    if offers == 0 and need is None:
        raise BadRequest(what="nothing offered and nothing needed: say how much with --offer, --need, or both")
    now_s, token = int(time.time()), os.urandom(TOKEN_BYTES)
    line = write_line(Line(identity.node[:FRONT_BYTES], token, host, port))
    made = Invitation(
        ticket_of(token), name, Wish(offers, offers if need is None else need), now_s, now_s + int(expires)
    )
    check_disk(home, offers)
    news = give_at_least(home, promised(home) + offers)
    if not is_served and not load(home.config).give_listen:
        store(home.config, "give.listen", _EVERYWHERE)
    kept = DiskInvitations(home.invitations)
    kept.add(made)
    kept.tidy(now_s)
    if asked.as_json:
        shown = {"address": f"{host}:{port}", "served": is_served, "tried": list(tried)}
        show_json({"line": line, **_told(made, now_s), **shown})
        return
    for said in news:
        click.echo(said)
    _show(
        line, made, reach_lines(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tried), is_served=is_served
    )


@invite.command(name="list")
@with_json
@with_common_options
def list_(asked: Asked) -> None:
    """List the invitations: which are open, and who used the others. The lines themselves are kept nowhere."""
    from bitdustfs.edges.invitations_disk import DiskInvitations

    home, now_s = asked.open_home(), int(time.time())
    kept = DiskInvitations(home.invitations).all()
    if asked.as_json:
        show_json({"invitations": [_told(each, now_s) for each in kept]})
        return
    for each in kept:
        amounts = f"offers {format_size(each.wish.offers)}, needs {format_size(each.wish.needs)}"
        click.echo(f"{each.short}  {_state(each, now_s):<36}  {amounts}{f', for {each.name}' if each.name else ''}")
    if not kept:
        click.echo("No invitation was made here.")


@invite.command(short_help="Take an invitation back.")
@click.argument("which", metavar="INVITATION")
@with_common_options
def cancel(asked: Asked, which: str) -> None:
    """Take an invitation back: 8 digits of `invite list`, or the name that it is for."""
    from dataclasses import replace

    from bitdustfs.core import invited
    from bitdustfs.core.invited import State
    from bitdustfs.edges.invitations_disk import DiskInvitations

    home, now_s = asked.open_home(), int(time.time())
    store = DiskInvitations(home.invitations)
    found = [each for each in store.all() if each.short == which.lower() or (each.name and each.name == which)]
    chosen = [each for each in found if each.state(now_s) is State.OPEN] or found
    if not chosen:
        raise NotFound(what=f"there is no invitation {which!r}: see `bitdustfs invite list`")
    if len(chosen) > 1:
        raise BadRequest(
            what=f"several invitations are for {which}: name one by its digits in `bitdustfs invite list`"
        )
    one = chosen[0]
    if one.guest is not None:
        raise BadRequest(what=f"{one.short} was used already: see `bitdustfs friends`")
    after = replace(one, cancelled=True)
    if not store.replace_invitation(one.ticket.mark, invited.encode(one), invited.encode(after)):
        raise BadRequest(what=f"{one.short} was used at this moment: see `bitdustfs friends`")
    click.echo(f"Took {one.short} back.")


# --- what both verbs share --------------------------------------------------------------------------------


def listening_at(home: Home) -> str:
    """ADDR:PORT where the process that holds the home can be dialled; "": nowhere, or none holds it."""
    if holder(home) is None:
        return ""
    try:
        return home.listening.read_text().strip()
    except OSError:
        return ""


def where_dialled(home: Home, chosen: str | None) -> tuple[str, int, bool]:
    """The address for an invitation, and whether somebody listens now.

    Raises:
        BadRequest: no IP address is known.
    """
    from bitdustfs.edges.own_address import dialable

    served = listening_at(home)
    host, port = parse_address(chosen or served or load(home.config).give_listen or _EVERYWHERE)
    if not port:
        raise BadRequest(what="give.listen has port 0, so the port is another one each time: set one, or mount first")
    return dialable(host), port, bool(served)


def _refuse_taken(home: Home, name: str) -> None:
    from bitdustfs.core.friends import refuse_taken
    from bitdustfs.edges.names_disk import names

    refuse_taken(name, None, {each: owner for owner, each in names(home.contracts).items()})


def _show(line: str, made: Invitation, reach: Sequence[str], *, is_served: bool) -> None:
    from bitdustfs.core.sheet import qr_lines

    friend = made.name or "your friend"
    click.echo(f"\nTell this to {friend}, and to nobody else; it is good once, until {moment(made.expires_s)}:\n")
    groups = line.split("-")
    for at in range(0, len(groups), 7):
        click.echo("    " + " ".join(groups[at : at + 7]))
    click.echo()
    rows = qr_lines(line.replace("-", ""))
    width = max(map(len, rows))
    for row in rows:
        click.echo(f"    \x1b[30;107m{row:<{width}}\x1b[0m" if sys.stdout.isatty() else f"    {row}")
    click.echo(f"\nThere: bitdustfs join {line}")
    gives, needs = format_size(made.wish.offers), format_size(made.wish.needs)
    click.echo(f"You give up to {gives}, and take up to {needs}.")
    for said in reach:
        click.echo(said)
    if not is_served:
        click.echo(
            "Nobody can join yet: start `bitdustfs mount DIRECTORY` or `bitdustfs serve`, and leave it running."
        )


def _state(each: Invitation, now_s: int) -> str:
    from bitdustfs.core.invited import State

    state = each.state(now_s)
    if state is State.OPEN:
        return f"open until {moment(each.expires_s)}"
    if each.guest is not None:
        return f"used {moment(each.guest.since_s)} by {each.guest.node[:4].hex()}"
    return str(state.value)


def _told(each: Invitation, now_s: int) -> dict[str, object]:
    return {
        "invitation": each.short,
        "state": each.state(now_s).value,
        "name": each.name,
        "offer_bytes": each.wish.offers,
        "need_bytes": each.wish.needs,
        "made_s": each.made_s,
        "expires_s": each.expires_s,
        "guest_node": each.guest.node.hex() if each.guest is not None else "",
        "guest_owner": each.guest.owner.hex() if each.guest is not None else "",
    }
