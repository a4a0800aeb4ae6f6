"""`bitdustfs fsck`: check catalog, spool and suppliers against each other, and put right what can be."""

from __future__ import annotations

from functools import partial

import click

from bitdustfs.cli.common import Asked, refuse_mounted, show_json, with_common_options, with_json
from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home, check_home, hold
from bitdustfs.errors import BadRequest, BitdustError

EXIT_WRONG = 36  # something is wrong, and was not put right


@click.command(short_help="Check the volume, and put right what is wrong.")
@click.argument("directory", required=False)
@click.option("--repair", is_flag=True, help="Copy the catalog, then put right what can be.")
@click.option("--salvage", is_flag=True, help="With --repair: make a damaged catalog anew from what can be read.")
@click.option("--trust", is_flag=True, help="With --repair: give up what a repair found missing.")
@click.option("--offline", is_flag=True, help="Ask no supplier.")
@with_json
@with_common_options
def fsck(asked: Asked, directory: str | None, repair: bool, salvage: bool, trust: bool, offline: bool) -> int:
    """Check this volume: its catalog, its spool, and what its suppliers say that they hold.

    The volume must not be mounted. DIRECTORY is where it was: a mount that is left there by a process that died says
    which one it is; where nothing is mounted, it is that of the chosen home.

    Without --repair nothing is changed. With it, a copy of the catalog is kept in the state directory, and nothing
    that could be read before is taken away: what has lost its name is put into lost+found, what suppliers lack is
    made again at the next mount. A catalog whose file is damaged is left alone without --salvage: the suppliers'
    copy, which `recover` brings back, is most often better.

    When something of the catalog was missing, suppliers keep all that they have, for it may be needed by what is
    missing. --trust ends that, once nothing is wrong: what the catalog does not name is let go then, for ever.

    Suppliers are only asked for names; `bitdustfs audit` asks for the bytes.

    \b
    Exit codes: 0 nothing is wrong, or all of it was put right; 36 something is wrong.

    \b
    Examples:
      bitdustfs fsck
      bitdustfs fsck ~/BitDust --repair
    """
    from bitdustfs.cli.checking_disk import run_fsck
    from bitdustfs.cli.logs import log_to_stderr

    if salvage and not repair:
        raise BadRequest(what="--salvage is a way to repair: give --repair too")
    if trust and not repair:
        raise BadRequest(what="--trust changes the catalog: give --repair too")
    home = asked.open_home() if directory is None else _home_at(asked, directory)
    refuse_mounted(home)
    with hold(home):
        log_to_stderr("error")
        say = partial(click.echo, err=True)
        done = run_fsck(home, repair=repair, salvage=salvage, trust=trust, offline=offline, say=say)
    if asked.as_json:
        show_json(
            {
                "wrong": done.wrong,
                "mended": done.mended,
                "notes": done.notes,
                "copy": str(done.copy) if done.copy is not None else None,
            }
        )
        return EXIT_WRONG if done.wrong else 0
    for line in done.notes:
        click.echo(line)
    for line in done.mended:
        click.echo(f"mended   {line}")
    for line in done.wrong:
        click.echo(f"wrong    {line}")
    if done.copy is not None:
        click.echo(f"The catalog as it was is in {done.copy}.")
    if done.wrong and not repair and not salvage:
        click.echo("Run `bitdustfs fsck --repair` to put right what can be.")
    return EXIT_WRONG if done.wrong else 0


def _home_at(asked: Asked, directory: str) -> Home:
    """The home whose mount is there, though its process may be dead; else the chosen one, which may have been there.

    Raises:
        BadRequest: no volume is or was mounted there, as far as can be seen. NotFound, Forbidden: no such home.
    """
    place, listed = mounts.place_of(directory), mounts.read_mounts()
    mount = mounts.mount_of(place, listed)
    if mount is not None and mount.is_ours:
        home, _, _ = asked.home_of(directory)
        check_home(home)
        return home
    home = asked.open_home()
    try:
        mounts.check_mountpoint(place, str(home), listed)
    except BitdustError as bad:  # it says what to do to mount there
        raise BadRequest(
            what=f"{directory} is neither a mount of bitdustfs nor an empty directory where one was: to check the "
            f"volume in {home}, leave it out"
        ) from bad
    click.echo(f"Nothing is mounted at {directory}: this is about the volume in {home}.", err=True)
    return home
