"""`bitdustfs recover`: from the 24 words and the address of one supplier to the whole volume, on an empty machine.

With --check it is only tried, on a machine that has the volume, and what would come back is compared with what is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from bitdustfs.cli.common import TO_WRITE, Asked, moment, refuse_mounted, with_common_options
from bitdustfs.cli.hire import parse_place
from bitdustfs.cli.mount import mount
from bitdustfs.cli.sheet import hired_places
from bitdustfs.cli.sync import wait_until_placed
from bitdustfs.cli.words import owner_key_for, read_secret, with_words_file
from bitdustfs.core.addresses import has_zone
from bitdustfs.core.report import StatusReport
from bitdustfs.core.units import count, format_size
from bitdustfs.edges import mounts
from bitdustfs.edges.config import addresses_in, load, parse_address
from bitdustfs.edges.control import ask
from bitdustfs.edges.home import Home, check_home, hold, holder, make_home
from bitdustfs.edges.mounts import Mount
from bitdustfs.errors import EXIT, AlreadyThere, BadRequest, Kind, NotFound
from bitdustfs.model import NodeId, Role

if TYPE_CHECKING:
    from bitdustfs.cli.checking import Checked
    from bitdustfs.cli.recovering import Recovered
    from bitdustfs.core.keys import Secret
    from bitdustfs.core.recovery import Found

_SHOWN = 20  # names of files; the rest is counted
_READ_BYTES = 1024 * 1024
_CONNECT_S = 15.0  # for the suppliers that told the state to be connected to the new mount
_LOOK_S = 0.1
_ASKING = "Asking the suppliers for the newest state."
_SILENCE_S = 30  # the mount answers from its catalog

Progress = Callable[[int, int], None]


@click.command(short_help="Bring a volume back on a machine that has nothing of it.")
@click.argument("suppliers", metavar="NODEID@ADDR:PORT...", nargs=-1)
@click.option(
    "--via",
    metavar="ADDR:PORT",
    multiple=True,
    help="Find the suppliers through anybody there who takes part in the hash table. Can be repeated.",
)
@click.option("--nearby", is_flag=True, help="As --via, with whoever runs bitdustfs in this local network.")
@click.option("--accept", is_flag=True, help="Go on from what is found, also if too few suppliers answer to be sure.")
@click.option("--wait", is_flag=True, help="If too few suppliers answer, ask again until enough do.")
@click.option("--read-only", is_flag=True, help="Only read here, and follow what another machine writes.")
@click.option(
    "--beside", is_flag=True, help="Write here too, by turns: the machine that writes now goes on until asked."
)
@click.option("--mount", "directory", metavar="DIR", help="Then mount the volume at DIR.")
@click.option("--all", "everything", is_flag=True, help="With --mount: then fetch all contents, not only names.")
@click.option("--check", is_flag=True, help="Only try, on a machine that has the volume; changes nothing.")
@with_words_file
@with_common_options
def recover(
    asked: Asked,
    suppliers: tuple[str, ...],
    via: tuple[str, ...],
    nearby: bool,
    accept: bool,
    wait: bool,
    read_only: bool,
    beside: bool,
    directory: str | None,
    everything: bool,
    check: bool,
    words_file: str | None,
) -> int:
    """Bring a volume back on a machine that has nothing of it.

    Asks for the 24 words. One supplier's address is enough: the others are learned from it. With none at hand, --via
    finds them through anybody else who runs bitdustfs, and --nearby through those in this network. The names come
    back at once, the contents when they are read. From then on this machine writes the volume, and any other that
    did cannot change it any more.

    If too few suppliers answer to be sure that nothing newer exists, what is found can only be read, and the exit
    code is 14. Run it again, then without an address: when more answer, with --wait, or with --accept.

    With --read-only this machine takes nothing from the other: that one goes on to write, and what it writes is seen
    here within seconds after it has reached the suppliers. Run it again without, and this one writes.

    With --beside both may write, by turns: `mount` on the one asks the other to let the volume go. A home that was
    recovered to read becomes one that writes.

    With --check, on a machine that has the volume, it is only tried: what the suppliers would bring back is fetched,
    and compared with what is here.

    \b
    Examples:
      bitdustfs recover 9c1f…e0@192.0.2.7:4878
      bitdustfs mount ~/BitDust
      bitdustfs recover --via friend.example.org:4878
      bitdustfs recover --read-only --nearby
      bitdustfs recover --beside --mount ~/BitDust
      bitdustfs recover --check
    """
    if check:
        if suppliers or via or nearby or accept or wait or read_only or beside or directory or everything:
            raise BadRequest(what="--check takes the suppliers of this machine, and no other option but --words-file")
        _check(asked, words_file)
        return 0
    if everything and directory is None:
        raise BadRequest(what="--all reads everything through the mount: give --mount DIR too")
    if read_only and (accept or wait):
        raise BadRequest(what="--read-only takes what there is, and follows: it needs neither --accept nor --wait")
    if beside and (accept or read_only):
        raise BadRequest(
            what="--beside goes on from the newest state, by turns with who writes now: it goes with neither "
            "--accept nor --read-only"
        )
    if accept and wait:
        raise BadRequest(what="--accept goes on with who answers now, and --wait waits for more: choose one")
    home = asked.find_home()
    friends = [parse_place(text) for text in suppliers]
    owner = _owner_of_reader(home)
    if owner is not None:
        refuse_mounted(home)
        friends += _hired(home)
    if not friends and not nearby:
        via = via or addresses_in(load(home.config).dht_bootstrap)
    if not friends and not via and not nearby:
        raise BadRequest(
            what="name a supplier as NODEID@ADDR:PORT: it is on your sheet, or a friend tells it. "
            "Or name anybody who runs bitdustfs with --via ADDR:PORT, or look in this network with --nearby"
        )
    for address in via:
        parse_address(address)
    if directory is not None:
        mounts.check_fuse()
        mounts.check_mountpoint(mounts.place_of(directory), str(home), mounts.read_mounts())
    secret = read_secret(words_file)
    if owner is not None:
        owner_key_for(secret, owner)

    import trio

    from bitdustfs.cli.logs import log_to_stderr
    from bitdustfs.cli.recovering import WAIT_S, Wish, run_recover

    def say(found: Found) -> None:
        _say(found)
        if wait and not found.is_certain:
            click.echo(f"Asking again in {WAIT_S:g} s, until enough answer. Ctrl-C ends it.")

    make_home(home)
    with hold(home):
        log_to_stderr("error")
        friends += _found(secret, via, _nearby() if nearby else ())
        click.echo(_ASKING, err=True)
        with shown("catalog") as progress:
            done = trio.run(run_recover, home, secret, friends, Wish(accept, wait, read_only, beside), say, progress)
    _tell(home, done, beside=beside)
    if directory is None:
        if not done.may_write and not read_only:
            click.echo(f"To write, {TO_WRITE}.")
        click.echo("Now: bitdustfs mount DIRECTORY")
    else:
        click.get_current_context().invoke(
            mount, directory=directory, code=None, foreground=False, words=(), takes_over=False, is_daemon=False
        )
        if everything and not _read_all(home, Path(directory), done.found.answered):
            return EXIT[Kind.UNAVAILABLE]
    return 0 if done.may_write or read_only else EXIT[Kind.UNAVAILABLE]


def _nearby() -> tuple[str, ...]:
    import trio

    from bitdustfs.cli.lan import somebody_nearby

    found = tuple(trio.run(somebody_nearby))
    if not found:
        raise NotFound(
            what="nobody in this network says that bitdustfs runs there: name somebody with --via ADDR:PORT"
        )
    return found


def _found(secret: Secret, via: Sequence[str], here: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    """Those who keep something for the owner, or may: through the hash table, or all who are here."""
    asked = [*via, *(place for place in here if not has_zone(place))]
    try:
        if asked:
            return _found_through(secret, asked)
    except NotFound as error:
        if not here:
            raise
        click.echo(f"{error}. Asking those in this network themselves.", err=True)
    return _neighbours(here) if here else ()


def _neighbours(here: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    import trio

    from bitdustfs.cli.searching import find_neighbours

    click.echo(f"Asking who is at {', '.join(here)}.", err=True)
    found = trio.run(find_neighbours, here)
    if not found:
        raise NotFound(what=f"nobody answers at {', '.join(here)}: name somebody with --via ADDR:PORT")
    return found


def _found_through(secret: Secret, via: Sequence[str]) -> Sequence[tuple[NodeId, str]]:
    import trio

    from bitdustfs.cli.searching import find_friends

    click.echo(f"Looking for your suppliers through {', '.join(via)}.", err=True)
    return trio.run(find_friends, secret, via)


def _owner_of_reader(home: Home) -> bytes | None:
    """The public key of the owner, if what is here was recovered only to be read: it may be made anew.

    Raises:
        AlreadyThere: there is a volume, or the catalog of one whose keys were lost. A recovery that was interrupted
            leaves a catalog too, and says so beside it.
    """
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    if os.path.lexists(home.keys):
        certificate = identity_of(read_keys(home)).certificate
        if certificate.role is Role.READER:
            return certificate.owner_public
    elif not home.catalog.exists() or home.recovering.exists():
        return None
    raise AlreadyThere(what=f"{home} holds a volume already, and nothing was changed: choose another --home")


def _say(found: Found) -> None:
    listed = len(found.suppliers)
    click.echo(
        f"Version {found.head.version} of {moment(found.content.time_s)}, "
        f"confirmed by {found.confirming} of {count(listed, 'supplier')}."
    )
    if found.answered < listed:
        click.echo(f"{found.answered} of {listed} suppliers answered.")
    if not found.is_certain:
        click.echo(f"{found.needed} must answer to be sure that nothing newer exists. No answer from:")
        for label, why in found.silent.items():
            click.echo(f"  {label}: {why}")


def _tell(home: Home, done: Recovered, *, beside: bool) -> None:
    removed, reverted = done.report.removed, done.report.reverted
    for paths, what in ((removed, "only on the old machine, and gone"), (reverted, "here in an older version")):
        if paths:
            click.echo(f"{count(len(paths), 'file')} {'was' if len(paths) == 1 else 'were'} {what}:")
            for path in paths[:_SHOWN]:
                click.echo(f"  {path.decode('utf-8', 'backslashreplace')}")
            if len(paths) > _SHOWN:
                click.echo(f"  … and {len(paths) - _SHOWN} more")
    if done.may_write:
        click.echo(f"Recovered into {home}.")
        if beside:
            click.echo("No machine of yours was revoked: `bitdustfs mount` here asks the one that writes to let go.")
        return
    click.echo(f"Recovered into {home}, as of {moment(done.found.content.time_s)}, and only to be read.")


@contextmanager
def shown(what: str) -> Iterator[Progress]:
    """A progress bar of bytes on a terminal, from the first step on; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None, told="")

    def show(done: int, total: int) -> None:
        bar.start()
        told = f"{format_size(done)} of {format_size(total)}"
        bar.update(task, completed=done, total=total or None, told=told)

    try:
        yield show
    finally:
        bar.stop()


# --- everything at once -------------------------------------------------------------------------------------


def _read_all(home: Home, place: Path, suppliers: int) -> bool:
    """Read every file, so that its contents come from the suppliers; the spool keeps what it has room for.

    Args:
        suppliers: how many are expected to answer.
    Returns:
        Whether all could be read.
    """
    report = _when_connected(home, suppliers)
    read_bytes, failed = 0, []
    with shown("contents") as progress:
        for path in _files_below(place):
            try:
                with path.open("rb", buffering=0) as file:
                    while content := file.read(_READ_BYTES):
                        read_bytes += len(content)
                        progress(read_bytes, max(read_bytes, report["bytes"]))
            except OSError as error:
                failed.append(f"{path}: {error.strerror}")
    for line in failed[:_SHOWN]:
        click.echo(f"bitdustfs: {line}", err=True)
    click.echo(f"Read {format_size(read_bytes)}; {count(len(failed), 'file')} could not be read now.")
    return not failed


def _when_connected(home: Home, suppliers: int) -> StatusReport:
    """Wait for suppliers, for a while: until enough are connected, reads fail at once."""
    end = time.monotonic() + _CONNECT_S
    while True:
        report = cast(StatusReport, ask(home.control, "status", {"path": "/"}, silence_s=_SILENCE_S))
        if sum(each["answers"] for each in report["suppliers"]) >= suppliers or time.monotonic() > end:
            return report
        time.sleep(_LOOK_S)


def _files_below(place: Path) -> Iterator[Path]:
    for directory, _directories, names in os.walk(place):
        for name in names:
            path = Path(directory) / name
            if path.is_file() and not path.is_symlink():
                yield path


# --- only tried ---------------------------------------------------------------------------------------------


def _check(asked: Asked, words_file: str | None) -> None:
    from bitdustfs.edges.keys_disk import read_keys

    home, mount_of_home, _ = asked.home_of(None)
    check_home(home)
    public = read_keys(home).owner_public
    secret = read_secret(words_file)
    owner_key_for(secret, public)
    friends = _hired(home)
    if not friends:
        raise BadRequest(what="no supplier is hired: everything exists only on this machine")
    if holder(home) is not None:
        checked = _try(home, secret, friends, lambda: _sync(home, mount_of_home))
        ask(home.control, "recovery-checked", {"at_s": int(time.time())}, silence_s=_SILENCE_S)
    else:
        with hold(home):
            checked = _try(home, secret, friends, lambda: None)
            _note(home)
    _say(checked.found)
    click.echo(
        f"The words and the suppliers bring everything back: {checked.files} files and folders, as they are here."
    )


def _hired(home: Home) -> list[tuple[NodeId, str]]:
    return [(NodeId(bytes.fromhex(each.node)), each.address) for each in hired_places(home)]


def _try(home: Home, secret: Secret, friends: Sequence[tuple[NodeId, str]], sync: Callable[[], None]) -> Checked:
    import trio

    from bitdustfs.cli.checking import run_check
    from bitdustfs.cli.logs import log_to_stderr

    log_to_stderr("error")
    click.echo(_ASKING, err=True)
    with shown("catalog") as progress:
        return trio.run(run_check, home, secret, friends, sync, progress)


def _sync(home: Home, mount_of_home: Mount | None) -> None:
    wait_until_placed(home, mount_of_home, "/", None)


def _note(home: Home) -> None:
    from contextlib import closing

    from bitdustfs.edges.catalog_sqlite import SqliteCatalog
    from bitdustfs.engine.reporter import note_checked

    with closing(SqliteCatalog(home.catalog)) as catalog:
        note_checked(catalog, int(time.time()))
        catalog.commit()
