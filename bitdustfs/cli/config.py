"""`bitdustfs config`: read and change HOME/config.toml."""

from __future__ import annotations

import click

from bitdustfs.cli.common import Asked, show_json, with_common_options, with_json
from bitdustfs.edges.config import KEYS, meaning, show, store


@click.group()
def config() -> None:
    """Read and change the settings of this home.

    They are kept in HOME/config.toml. A flag on the command line wins over them.

    \b
    Examples:
      bitdustfs config list
      bitdustfs config set give.size 50G
      bitdustfs config set give.listen 0.0.0.0:4878
      bitdustfs config set allow.OWNERID 20G
    """


@config.command("get")
@click.argument("key")
@with_json
@with_common_options
def get(asked: Asked, key: str) -> None:
    """Print the value of KEY."""
    value = show(asked.settings(asked.open_home()), key)
    if asked.as_json:
        show_json({key: value})
    else:
        click.echo(value)


@config.command("set")
@click.argument("key")
@click.argument("value")
@with_common_options
def set_(asked: Asked, key: str, value: str) -> None:
    """Set KEY to VALUE.

    What runs already takes `limits`, `allow`, `dial` and `give.size` within seconds, and all others when it starts
    again.
    """
    store(asked.open_home().config, key, value)


@config.command("list")
@with_json
@with_common_options
def list_(asked: Asked) -> None:
    """Print all keys with their values and meanings."""
    settings = asked.settings(asked.open_home())
    values = {key: show(settings, key) for key in KEYS}
    if asked.as_json:
        show_json(values)
        return
    for key, value in values.items():
        click.echo(f"{key} = {value or '(not set)'}")
        click.echo(f"    {meaning(key)}")
