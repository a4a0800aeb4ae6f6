"""`bitdustfs demo`: a practice swarm on this machine, to try and to break."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from bitdustfs.cli.common import Asked, with_common_options
from bitdustfs.cli.swarm import WORDS, Plan, Swarm
from bitdustfs.core.placement import parse_code
from bitdustfs.core.report import PRACTICE_BANNER
from bitdustfs.edges import mounts
from bitdustfs.edges.home import find_home
from bitdustfs.errors import BadFormat, BadRequest

_MOST = 50  # processes


@click.group(short_help="Try it on this machine alone, with practice suppliers.")
def demo() -> None:
    """Try bitdustfs on this machine alone: practice suppliers, a volume, and a mount.

    \b
    Examples:
      bitdustfs demo up ~/BitDust
      bitdustfs demo kill 1
      bitdustfs demo revive 1
      bitdustfs demo down
    """


@demo.command()
@click.argument("directory")
@click.option("--suppliers", type=click.IntRange(1, _MOST), default=5, show_default=True, help="How many are hired.")
@click.option(
    "--spares", type=click.IntRange(0, _MOST), default=2, show_default=True, help="How many wait to be hired."
)
@click.option("--code", metavar="K/N", default="3/5", show_default=True, help="Any K of N suppliers restore a file.")
@with_common_options
def up(asked: Asked, directory: str, suppliers: int, spares: int, code: str) -> None:
    """Start the practice swarm and mount it at DIRECTORY.

    Makes what is missing, starts what does not run, and changes nothing else: run it as often as you like.
    """
    if parse_code(code).n > suppliers:
        raise BadRequest(what=f"a code of {code} needs {parse_code(code).n} suppliers, not {suppliers}")
    with Swarm(asked.find_home(), asked.start).opened(make=True) as swarm:
        plan = swarm.up(mounts.place_of(directory), suppliers=suppliers, spares=spares, code=code)
    for line in _told(asked, plan):
        click.echo(line)


@demo.command()
@click.argument("number", type=int)
@with_common_options
def kill(asked: Asked, number: int) -> None:
    """End practice supplier NUMBER as a power cut would."""
    with Swarm(asked.find_home()).opened() as swarm:
        member = swarm.found().member(number)
        done = swarm.kill(member)
    click.echo(f"{member.name} is killed." if done else f"{member.name} was not running.")


@demo.command()
@click.argument("number", type=int)
@with_common_options
def revive(asked: Asked, number: int) -> None:
    """Start practice supplier NUMBER again, with what it kept."""
    with Swarm(asked.find_home(), asked.start).opened() as swarm:
        plan = swarm.found()
        member = plan.member(number)
        if swarm.is_running(member):
            click.echo(f"{member.name} runs already.")
            return
        swarm.start(plan, [member])
        swarm.hire(plan, [member])
    click.echo(f"{member.name} runs again at {member.place.partition('@')[2]}.")


@demo.command()
@click.argument("directory", required=False)
@click.option("--purge", is_flag=True, help="Delete the practice volume and the suppliers' shelves too.")
@with_common_options
def down(asked: Asked, directory: str | None, purge: bool) -> None:
    """Unmount and stop the practice swarm. What was written stays, and comes back with `demo up`.

    DIRECTORY, where it is mounted, says which swarm; without it, it is that of the chosen home.
    """
    home = asked.find_home()
    mount = mounts.mounted_at(mounts.place_of(directory), mounts.read_mounts()) if directory else None
    is_mounted = mount is not None and mount.is_ours
    if is_mounted:
        home, _, _ = asked.home_of(directory)
    if not home.demo.is_dir() and not Swarm(home).exists():
        click.echo("There is no practice swarm.")
        return
    with Swarm(home).opened() as swarm:
        plan = _plan_to_end(swarm, purge=purge)
        if directory and not is_mounted and (plan is None or mounts.place_of(directory) != plan.mountpoint):
            where = f", which is mounted at {plan.mountpoint}" if plan is not None else ""
            raise BadRequest(what=f"{directory} is not of the practice swarm in {home}{where}; nothing was changed")
        swarm.down(plan.members if plan is not None else swarm.on_disk())
        if purge:
            swarm.purge(plan)
    click.echo(f"Deleted the practice swarm in {home}." if purge else f"Stopped. The state stays in {home}.")


def _plan_to_end(swarm: Swarm, *, purge: bool) -> Plan | None:
    """What was set up. None: nothing, or it is to be deleted and cannot be read."""
    try:
        return swarm.plan()
    except BadFormat:
        if purge:
            return None
        raise


def _told(asked: Asked, plan: Plan) -> list[str]:
    hired = [m.name for m in plan.members if not m.spare]
    spares = [m.name for m in plan.members if m.spare]
    k, _, n = plan.code.partition("/")
    run = _command(asked)
    place = shlex.quote(plan.mountpoint)
    words = shlex.quote(str(asked.find_home().demo / WORDS))
    return [
        f"{plan.mountpoint} is mounted: a volume on {len(hired)} practice suppliers, {hired[0]} to {hired[-1]}.",
        PRACTICE_BANNER,
        f"Any {k} of {n} suppliers restore a file. Hired when one is lost: {', '.join(spares) or 'none'}.",
        f"State: {asked.find_home()}, with the suppliers in demo/supplierN.",
        f"Try:   cp -a /usr/share/doc/bash {place}; {run} sync {place}",
        f"       {run} status {place}",
        f"       {run} cache drop {place}; {run} demo kill 1; {run} demo kill 3",
        f"       diff -r /usr/share/doc/bash {place}/bash; {run} demo revive 1",
        f"       {run} recover --check --words-file {words}",
        f"Stop:  {run} demo down            (what was written stays)",
        f"       {run} demo down --purge    (everything is deleted)",
    ]


def _command(asked: Asked) -> str:
    """How the person can call us again, in any shell."""
    called = Path(sys.argv[0])
    words = ["bitdustfs"] if shutil.which("bitdustfs") or called.name != "bitdustfs" else [str(called.absolute())]
    if asked.find_home() != find_home(None, environment=False):
        words += ["--home", str(asked.find_home())]
    return shlex.join(words)
