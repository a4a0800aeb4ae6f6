"""`bitdustfs init`: make the keys of a new volume and show the recovery phrase, once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bitdustfs.cli.common import Asked, today, with_common_options
from bitdustfs.edges.home import Home, hold, make_home, write_new
from bitdustfs.errors import AlreadyThere, BadRequest

_EPOCH = 1  # of an owner's first certificate; a higher one revokes it


@click.command()
@click.option(
    "--words-file",
    type=click.Path(dir_okay=False),
    help="Write the 24 words into this new file, readable by you only, instead of showing them.",
)
@click.option(
    "--sheet",
    "sheet_file",
    type=click.Path(dir_okay=False),
    help="Write a text to be printed into this new file, readable by you only: the words, also as a QR code, and "
    "what to do with them.",
)
@with_common_options
def init(asked: Asked, words_file: str | None, sheet_file: str | None) -> None:
    """Make the keys of a new volume.

    Shows 24 words, once, on the terminal. They are the only way back to your files when this machine is gone, and
    whoever has them has your files: write them on paper, or let --sheet make one. They are not stored here.

    \b
    Examples:
      bitdustfs init
      bitdustfs init --sheet /dev/shm/sheet && lp /dev/shm/sheet; rm /dev/shm/sheet
      bitdustfs --home /srv/bitdust init --words-file /media/stick/words
    """
    home = asked.find_home()
    files = [file for file in (words_file, sheet_file) if file is not None]
    if not files and not sys.stdout.isatty():
        raise BadRequest(
            what="the 24 words are shown on a terminal only: run this in one, or give --words-file or --sheet"
        )
    if os.path.lexists(home.keys):
        raise AlreadyThere(what=f"{home} holds keys already; nothing was changed")
    if home.catalog.exists() and home.catalog.stat().st_size:
        raise AlreadyThere(what=f"{home} holds the catalog of a volume, and nothing was changed: {_instead(home)}")
    for file in files:
        if os.path.lexists(file):
            raise AlreadyThere(what=f"{file} exists and is not overwritten: name a new file")
    make_home(home)
    with hold(home):
        phrase = _make_keys(asked, words_file, sheet_file)
    if not files:
        _show(phrase)
    if words_file is not None:
        click.echo(f"The 24 words are in {words_file}. Move them off this machine.")
    if sheet_file is not None:
        click.echo(f"The sheet with the 24 words is {sheet_file}. Print it, then delete it.")
    click.echo(f"Made keys in {home}.")


def _instead(home: Home) -> str:
    if home.recovering.exists():
        return "a recovery was interrupted here; run `bitdustfs recover` again, or choose another --home"
    return "its keys are gone; put them back, or run `bitdustfs recover` with another --home"


def _make_keys(asked: Asked, words_file: str | None, sheet_file: str | None) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bitdustfs.core import certificate, keys
    from bitdustfs.core.keyfile import NodeKeys
    from bitdustfs.core.phrase import phrase_of
    from bitdustfs.edges.keys_disk import write_keys
    from bitdustfs.model import Role

    secret = keys.Secret(os.urandom(keys.SECRET_BYTES))
    owner = keys.owner_key(secret)
    node = Ed25519PrivateKey.generate()
    signed = certificate.certify(owner, keys.public_bytes(node), Role.WRITER, epoch=_EPOCH)
    made = NodeKeys(
        seed=node.private_bytes_raw(),
        owner_public=keys.public_bytes(owner),
        certificate=signed.raw,
        volume=keys.volume_keys(secret),
    )
    phrase = phrase_of(secret)
    texts: list[tuple[str, str]] = []
    if words_file is not None:
        texts.append((words_file, f"{phrase}\n"))
    if sheet_file is not None:
        from bitdustfs.core.sheet import sheet

        texts.append((sheet_file, sheet(keys.owner_id(made.owner_public), (), date=today(), phrase=phrase)))
    written: list[Path] = []
    try:
        # the words first: keys without words would be a volume that nobody can recover
        for file, text in texts:
            write_new(Path(file), text.encode())
            written.append(Path(file))
        write_keys(asked.find_home(), made)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return phrase


def _show(phrase: str) -> None:
    from bitdustfs.core.sheet import word_rows

    click.echo("Your recovery phrase. It is shown this once; write it on paper, in this order:\n")
    for row in word_rows(phrase):
        click.echo(row)
    click.echo("\nWith these words anybody gets your files back, you or a thief; without them nobody does.\n")
