"""`bitdustfs id`: who this home is, for those who should let it store something."""

from __future__ import annotations

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json


@click.command("id")
@click.option("--owner", "only", flag_value="owner", help="Print the owner id only.")
@click.option("--node", "only", flag_value="node", help="Print the node id only.")
@with_json
@with_common_options
def identify(asked: Asked, only: str | None) -> None:
    """Print the owner id and the node id of this home.

    A friend needs your owner id to let you store something on his machine:

    \b
      bitdustfs id --owner                           on your machine
      bitdustfs serve --allow OWNERID:50G            on his
    """
    from bitdustfs.edges.keys_disk import identity_of, read_keys

    identity = identity_of(read_keys(asked.open_home()))
    ids = {"owner": identity.owner.hex(), "node": identity.node.hex()}
    if only is not None:
        click.echo(ids[only])
    elif asked.as_json:
        show_json(ids)
    else:
        for name, value in ids.items():
            click.echo(f"{name:<6} {value}")
