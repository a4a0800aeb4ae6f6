"""`bitdustfs revoke`: take all rights at the suppliers away from a machine that is lost."""

from __future__ import annotations

import re

import click

from bitdustfs.cli.common import Asked, refuse_mounted, refuse_reader, with_common_options
from bitdustfs.cli.words import owner_key_for, read_secret, with_words_file
from bitdustfs.edges.home import hold
from bitdustfs.errors import EXIT, BadRequest, Kind
from bitdustfs.model import short

_PREFIX = re.compile(r"[0-9a-f]{8,64}")  # 8 digits is how logs name a node


@click.command(short_help="Shut out a machine that is lost or stolen.")
@click.argument("node")
@with_words_file
@with_common_options
def revoke(asked: Asked, node: str, words_file: str | None) -> int:
    """Take all rights at the suppliers away from machine NODE, which is lost or stolen.

    NODE is its node id, as `bitdustfs id` said there, or at least 8 digits of its front. Asks for the 24 words, and
    certifies this machine anew, in a new epoch. With that *every* other machine of yours is revoked, and not only
    NODE: use `recover` on those that should go on. The volume must not be mounted meanwhile.

    Who has a revoked machine can still read what lies on its disk. He can read, write and delete nothing at suppliers
    that were told.

    \b
    Exit codes: 0 all suppliers were told, 14 some did not answer (who is said): they are told when this machine is
    mounted and they answer.

    \b
    Examples:
      bitdustfs revoke 9c1f22e0
    """
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    prefix = node.strip().lower()
    if not _PREFIX.fullmatch(prefix):
        raise BadRequest(what=f"{node!r} is not a node id, nor its first 8 hex digits or more")
    home = asked.open_home()
    identity = identity_of(read_keys(home))
    if identity.node.hex().startswith(prefix):
        raise BadRequest(what=f"{prefix} is this machine: run `revoke` on another one that has the volume")
    refuse_reader(identity)
    refuse_mounted(home)
    owner = owner_key_for(read_secret(words_file), identity.certificate.owner_public)

    import trio

    from bitdustfs.cli.logs import log_to_stderr
    from bitdustfs.cli.revoking import run_revoke

    with hold(home):
        log_to_stderr("error")
        done = trio.run(run_revoke, home, owner)
    click.echo(f"Every machine of yours but this one, {short(identity.node)}, is revoked: node {prefix} with them.")
    if done.told:
        click.echo(f"Told: {', '.join(done.told)}.")
    for label, why in done.untold.items():
        click.echo(f"Not told yet: {label} ({why}). It is told when the volume is mounted and it answers.")
    return EXIT[Kind.UNAVAILABLE] if done.untold else 0
