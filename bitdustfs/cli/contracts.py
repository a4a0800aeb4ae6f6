"""`bitdustfs contracts`: what was agreed with friends; change or end it; it is said before what that does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import click

from bitdustfs.cli.common import Asked, Size, moment, show_json, with_common_options, with_json
from bitdustfs.cli.fairness import balance_lines
from bitdustfs.core.grace import DAY_S, GRACE_S, NOTICE_S
from bitdustfs.core.report import ContractReport, ContractTerms
from bitdustfs.core.units import exact_size, format_size
from bitdustfs.edges.config import store
from bitdustfs.edges.control import ask
from bitdustfs.edges.home import Home
from bitdustfs.errors import BadRequest, NotFound

_SILENCE_S = 60
_NOTICE = "Your notice is kept, and holds from its date on; your friend signs it when he connects."
_GOES_ON = "The notice, of which your friend had not heard, is taken back: the contract goes on as it was."
_WAITS = "Your friend has not said so yet, with the same verb: until then the end stays."


@click.group(invoke_without_command=True, short_help="List what you and friends give each other; change or end it.")
@with_json
@with_common_options
@click.pass_context
def contracts(context: click.Context, asked: Asked) -> None:
    """List the contracts with friends, or change one. The home must be mounted or served.

    \b
    Examples:
      bitdustfs contracts
      bitdustfs contracts change anna --offer 20G
      bitdustfs contracts end anna
      bitdustfs contracts renew anna
    """
    if context.invoked_subcommand is not None:
        return
    told = _listed(asked.find_home())
    if asked.as_json:
        show_json({"contracts": told})
        return
    for each in told:
        for line in lines(each):
            click.echo(line)
    if not told:
        click.echo("There is no contract. See `bitdustfs invite --help`.")


@contracts.command()
@click.argument("name")
@click.option("--offer", type=Size(), help="Keep so much for the friend from now on.")
@click.option("--need", type=Size(), help="Let the friend keep so much for you from now on.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_json
@with_common_options
def change(asked: Asked, name: str, offer: int | None, need: int | None, yes: bool) -> None:
    """Change what you keep for a friend, or what he keeps for you.

    More is agreed at once, if both are connected. To offer less than he stores here takes 30 days of notice, which he
    hears of when he connects; until then he keeps what he has. Nothing that is stored is deleted by this.
    """
    if offer is None and need is None:
        raise BadRequest(what="say what to change: --offer SIZE, --need SIZE, or both")
    home = asked.find_home()
    held = _called(home, name)
    _confirm(asked, consequences(held, offer=offer, need=need, now_s=int(time.time())), yes=yes)
    told = ask(
        home.control, "contract-change", {"name": held["owner"], "offer": offer, "need": need}, silence_s=_SILENCE_S
    )
    if offer is not None:
        store(home.config, f"allow.{held['owner']}", exact_size(offer))
    _say(asked, cast(ContractReport, told), is_agreed=bool(told["is_agreed"]))


@contracts.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_json
@with_common_options
def end(asked: Asked, name: str, yes: bool) -> None:
    """End the contract with a friend, 30 days from now.

    It ends also if he is away and does not answer. What either stores with the other stays after the end, and can be
    read; 30 days later it yields to space that is needed.
    """
    home = asked.find_home()
    held = _called(home, name)
    _confirm(asked, ending(held, now_s=int(time.time())), yes=yes)
    told = ask(home.control, "contract-change", {"name": held["owner"], "end": True}, silence_s=_SILENCE_S)
    store(home.config, f"allow.{held['owner']}", "0")
    _say(asked, cast(ContractReport, told), is_agreed=bool(told["is_agreed"]))


@contracts.command()
@click.argument("name")
@with_json
@with_common_options
def renew(asked: Asked, name: str) -> None:
    """Go on with a contract that was to end, or has ended.

    Who ended it says so first, and then the other one, each with this. What was brought to others meanwhile stays
    there; a supplier that was leaving for it stays.
    """
    home = asked.find_home()
    held = _called(home, name)
    if held["now"]["offered_bytes"]:
        store(home.config, f"allow.{held['owner']}", exact_size(held["now"]["offered_bytes"]))
    told = ask(home.control, "contract-change", {"name": held["owner"], "renew": True}, silence_s=_SILENCE_S)
    now = cast(ContractReport, told)
    unsigned = _WAITS if now["now"]["until_s"] else _GOES_ON
    _say(asked, now, is_agreed=bool(told["is_agreed"]), unsigned=unsigned)


def lines(told: ContractReport) -> Sequence[str]:
    """Write a contract for a person."""
    now = told["now"]
    here, there = format_size(told["used_here_bytes"]), format_size(told["used_there_bytes"])
    state = "connected" if told["connected"] else "not connected"
    shown = [
        f"{told['name']}  owner {told['owner'][:16]}…, {state}, since {moment(told['agreed_s'])}, {_until(now)}",
        f"  offered  {format_size(now['offered_bytes'])}, {here} used",
        f"  needed   {format_size(now['needed_bytes'])}, {there} used",
    ]
    gives, takes = bool(now["offered_bytes"]), bool(now["needed_bytes"])
    shown += [f"  {line}" for line in balance_lines(told["balance"], told["name"], gives=gives, takes=takes)]
    for what, terms in (("agreed", told["coming"]), ("notice, not signed by the friend yet", told["notice"])):
        if terms is not None:
            offered, needed = format_size(terms["offered_bytes"]), format_size(terms["needed_bytes"])
            shown.append(
                f"  from {moment(terms['since_s'])}: offered {offered}, needed {needed}, {_until(terms)} ({what})"
            )
    if told["grace_until_s"]:
        shown.append(
            f"  ended: what the friend stores here yields to space needed from {moment(told['grace_until_s'])}"
        )
    return shown


def consequences(held: ContractReport, *, offer: int | None, need: int | None, now_s: int) -> Sequence[str]:
    """What a change does to what is stored."""
    said, now = [], held["now"]
    used, name = held["used_here_bytes"], held["name"]
    if offer is not None and offer < used:
        day = moment(now_s + NOTICE_S)
        said.append(
            f"{name} stores {format_size(used)} here, more than {format_size(offer)}. "
            f"Until {day} all stays as it is. "
            f"From then on nothing new is taken until less than that is left; what is here stays."
        )
    elif offer is not None:
        said.append(f"{name} may store up to {format_size(offer)} here at once, and stores {format_size(used)}.")
    there = held["used_there_bytes"]
    if need is not None and need < there:
        said.append(
            f"You store {format_size(there)} with {name}, more than {format_size(need)}: it stays, and nothing new "
            "goes there until less is left."
        )
    elif need is not None:
        said.append(f"You may store up to {format_size(need)} with {name}, and store {format_size(there)}.")
    if now["until_s"]:
        said.append(f"The contract still ends on {moment(now['until_s'])}.")
    return said


def ending(held: ContractReport, *, now_s: int) -> Sequence[str]:
    """What the end does to what is stored."""
    name, day = held["name"], moment(held["now"]["until_s"] or now_s + NOTICE_S)
    here, there = format_size(held["used_here_bytes"]), format_size(held["used_there_bytes"])
    said = [
        f"The contract with {name} ends on {day}. Until then all goes on; "
        "after it nothing new is stored on either side.",
        f"{name} stores {here} here: it can still be read, and from {GRACE_S // DAY_S} days after the end on "
        "it yields to space that is needed.",
    ]
    if held["used_there_bytes"]:
        said.append(
            f"You store {there} with {name}: it is brought to others from now on, and counts until "
            f"{GRACE_S // DAY_S} days after the end. `bitdustfs status` says what nobody takes."
        )
    return said


def _until(terms: ContractTerms) -> str:
    return f"until {moment(terms['until_s'])}" if terms["until_s"] else "open-ended"


def _listed(home: Home) -> Sequence[ContractReport]:
    return cast("Sequence[ContractReport]", ask(home.control, "contracts", {}, silence_s=_SILENCE_S)["contracts"])


def _called(home: Home, name: str) -> ContractReport:
    told = _listed(home)
    found = [each for each in told if each["name"] == name]
    found = found or [each for each in told if len(name) >= 8 and each["owner"].startswith(name.lower())]
    if len(found) != 1:
        what = f"there is no contract with {name!r}" if not found else f"{name!r} means several"
        raise NotFound(what=f"{what}: `bitdustfs contracts` lists them")
    return found[0]


def _confirm(asked: Asked, said: Sequence[str], *, yes: bool) -> None:
    if not asked.as_json:
        for line in said:
            click.echo(line)
    if not yes:
        click.confirm("Do it?", abort=True, err=True)


def _say(asked: Asked, told: ContractReport, *, is_agreed: bool, unsigned: str = _NOTICE) -> None:
    if asked.as_json:
        show_json(cast("dict[str, object]", told))
        return
    click.echo("Both have signed it." if is_agreed else unsigned)
    for line in lines(told):
        click.echo(line)
