"""`bitdustfs friends`: with whom there is a contract, and what each gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import click

from bitdustfs.cli.common import Asked, moment, show_json, with_common_options, with_json
from bitdustfs.cli.fairness import balance_lines
from bitdustfs.core.report import FriendReport
from bitdustfs.core.units import format_size
from bitdustfs.edges.control import NotServed, ask
from bitdustfs.edges.home import Home, check_free, hold
from bitdustfs.errors import BadRequest, NotFound
from bitdustfs.model import OwnerId

if TYPE_CHECKING:
    from bitdustfs.cli.befriending import Friends

T = TypeVar("T")
_SILENCE_S = 30


@click.group(invoke_without_command=True, short_help="List, show, rename and forget friends.")
@with_json
@with_common_options
@click.pass_context
def friends(context: click.Context, asked: Asked) -> None:
    """List the friends: name, fingerprint, whether their machine answers, and what each gives.

    The fingerprint is that of the person, not of a machine: `bitdustfs id` shows it there, and it stays the same.
    Works whether the volume is mounted or not.

    \b
    Examples:
      bitdustfs friends
      bitdustfs friends rename friend1 anna
    """
    if context.invoked_subcommand is not None:
        return
    known = _known(asked.open_home())
    if asked.as_json:
        show_json({"friends": known})
        return
    width = max((len(each["name"]) for each in known), default=0)
    for each in known:
        state = each["state"] or "only stores here"
        click.echo(f"{each['name']:<{width}}  {_fingerprint(each)}  {state:<9}  {_gives(each)}")
    if not known:
        click.echo("No friend yet. See `bitdustfs invite --help`.")


@friends.command()
@click.argument("name")
@with_json
@with_common_options
def show(asked: Asked, name: str) -> None:
    """Tell all that is known of one friend."""
    one = _one(_known(asked.open_home()), name)
    if asked.as_json:
        show_json(cast("dict[str, object]", one))
        return
    click.echo(f"{one['name']}: fingerprint {_fingerprint(one)}, owner {one['owner']}")
    for node, address in zip(one["nodes"], one["addresses"], strict=True):
        click.echo(f"  machine    {node} at {address or 'no address: it dials this one'}")
    click.echo(f"  gives      {format_size(one['gives_bytes'])}, of which you use {format_size(one['used_bytes'])}")
    click.echo(f"  takes      {format_size(one['takes_bytes'])}")
    if one["since_s"]:
        until = f"until {moment(one['until_s'])}" if one["until_s"] else "open-ended"
        click.echo(f"  contract   since {moment(one['since_s'])}, {until}")
    gives, takes = bool(one["takes_bytes"]), bool(one["gives_bytes"])
    for line in balance_lines(one["balance"], one["name"], gives=gives, takes=takes):
        word, _, rest = line.partition(" ")
        click.echo(f"  {word:<10} {rest.lstrip()}")


@friends.command()
@click.argument("old")
@click.argument("new")
@with_common_options
def rename(asked: Asked, old: str, new: str) -> None:
    """Call a friend otherwise. A name that another friend has is refused."""
    from bitdustfs.core.friends import check_name

    home, name = asked.open_home(), check_name(new)
    one = _one(_known(home), old)
    try:
        ask(home.control, "rename", {"owner": one["owner"], "name": name}, silence_s=_SILENCE_S)
    except NotServed:
        import trio

        owner = OwnerId(bytes.fromhex(one["owner"]))
        _unmounted(home, lambda friends: trio.run(friends.rename, owner, name))
    click.echo(f"{old} is called {name} now.")


@friends.command(short_help="Forget a friend with whom nothing is left.")
@click.argument("name")
@with_common_options
def remove(asked: Asked, name: str) -> None:
    """Forget a friend with whom nothing is left: neither anything of yours there, nor a promise to him."""
    from bitdustfs.edges.names_disk import forget_name

    home = asked.open_home()
    one = _one(_known(home), name)
    if one["nodes"]:
        used = format_size(one["used_bytes"])
        first = f"run `bitdustfs suppliers leave {name}` first, which brings it to others"
        raise BadRequest(what=f"{name} keeps {used} of yours: {first}")
    if one["takes_bytes"]:
        until = f"until {moment(one['until_s'])}" if one["until_s"] else "for as long as nobody ends it"
        stays = f"end that with `bitdustfs contracts end {name}`, which says what becomes of what he stored here"
        raise BadRequest(what=f"you promised {name} {format_size(one['takes_bytes'])} {until}: {stays}")
    forget_name(home.contracts, OwnerId(bytes.fromhex(one["owner"])))
    click.echo(f"{name} is forgotten.")


def _known(home: Home) -> list[FriendReport]:
    try:
        return list(ask(home.control, "friends", silence_s=_SILENCE_S)["friends"])
    except NotServed:
        return _unmounted(home, lambda friends: friends.told({}))


def _unmounted(home: Home, work: Callable[[Friends], T]) -> T:
    """Do something with the friends of a home that no process serves. Raises InUse."""
    check_free(home)
    from bitdustfs.cli.unmounted import unmounted_friends

    with hold(home), unmounted_friends(home) as known:
        return work(known)


def _one(known: list[FriendReport], name: str) -> FriendReport:
    found = next((each for each in known if each["name"] == name), None)
    if found is None:
        raise NotFound(what=f"there is no friend called {name!r}: see `bitdustfs friends`")
    return found


def _fingerprint(friend: FriendReport) -> str:
    from bitdustfs.core.phrase import fingerprint

    return fingerprint(OwnerId(bytes.fromhex(friend["owner"])))


def _gives(friend: FriendReport) -> str:
    used = f" (you use {format_size(friend['used_bytes'])})" if friend["nodes"] else ""
    return f"gives {format_size(friend['gives_bytes'])}{used}, takes {format_size(friend['takes_bytes'])}"
