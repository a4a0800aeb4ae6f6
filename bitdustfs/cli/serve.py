"""`bitdustfs serve`: keep other people's fragments."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from bitdustfs.cli.common import Asked, Size, with_common_options
from bitdustfs.core.units import GIB, parse_size
from bitdustfs.edges import mounts
from bitdustfs.edges.config import DEFAULT_PORT, parse_address, parse_owner
from bitdustfs.edges.home import hold
from bitdustfs.errors import BadRequest
from bitdustfs.model import OwnerId

_LISTEN = f"0.0.0.0:{DEFAULT_PORT}"
_DONATE_BYTES = 10 * GIB


@click.command(short_help="Keep fragments for friends, without a mount.")
@click.option("--listen", metavar="ADDR:PORT", help="Wait for customers here; port 0 takes a free one.")
@click.option("--give", "--donate", "donate", type=Size(), help="Keep so much for all friends together.")
@click.option("--shelf", type=click.Path(file_okay=False), help="Directory for what they store. Default: HOME/shelf.")
@click.option("--allow", "allows", metavar="OWNERID:SIZE", multiple=True, help="Let this owner store so much here.")
@click.option("-f", "--foreground", is_flag=True, help="Log to stderr instead of HOME/log.")
@with_common_options
def serve(
    asked: Asked,
    listen: str | None,
    donate: int | None,
    shelf: str | None,
    allows: tuple[str, ...],
    foreground: bool,
) -> None:
    """Keep fragments for friends, until SIGTERM or Ctrl-C. For a machine without a mount: a mount does it too.

    Prints NODEID@ADDR:PORT, which a friend gives to `hire`, when it can be reached. Only owners named with --allow,
    or in the table `allow` of config.toml, may store anything; `bitdustfs id --owner` prints an owner's id.

    \b
    Examples:
      bitdustfs serve --give 100G --allow 3f…e1:50G
      bitdustfs serve --listen 0.0.0.0:4878 --shelf /media/disk/shelf
    """
    home = asked.open_home()
    settings = asked.settings(home)
    shelf_path = Path(shelf or settings.give_shelf or home.shelf).absolute()
    for path, what in ((home.path, "the state directory"), (shelf_path, "the shelf")):
        mounts.refuse_inside_ours(os.path.realpath(path), what, mounts.read_mounts())
    address = listen if listen is not None else settings.give_listen or _LISTEN
    parse_address(address)
    flags = _flags(allows)

    import trio

    from bitdustfs.cli.assemble_supplier import run_serve
    from bitdustfs.cli.giving import GivingWish
    from bitdustfs.cli.logs import log_to_file, log_to_stderr

    size = donate if donate is not None else settings.give_size or _DONATE_BYTES
    wish = GivingWish(listen=address, shelf=shelf_path, size_bytes=size, settings=settings, flags=flags)
    with hold(home):
        if foreground:
            log_to_stderr(asked.level(settings))
        else:
            log_to_file(home, asked.level(settings))
        trio.run(run_serve, home, wish, _print)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
    sys.stdout.flush()


def _flags(given: tuple[str, ...]) -> Mapping[OwnerId, int]:
    """Read OWNERID:SIZE, several times. Raises BadRequest."""
    allowed = {}
    for text in given:
        owner, colon, size = text.partition(":")
        if not colon:
            raise BadRequest(what=f"--allow {text!r} has no size: write OWNERID:SIZE, like {owner[:8]}…:50G")
        allowed[parse_owner(owner)] = parse_size(size)
    return allowed
