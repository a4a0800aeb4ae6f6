"""What friends are called: HOME/contracts/<owner>.name, beside the contract with them.

The catalog has the name of a friend who keeps something for us, as the label of its supplier; this one is there for a
process without a catalog, and for friends who only store here. Whoever gives a name writes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bitdustfs.core.friends import NAME_CHARACTERS, check_name
from bitdustfs.edges.durable import translated
from bitdustfs.edges.folder import make_folder, put_file, remove_file
from bitdustfs.errors import BadRequest
from bitdustfs.model import OwnerId

_SUFFIX: Final = ".name"
_BYTES: Final = 4 * NAME_CHARACTERS + 1


def names(directory: Path) -> Mapping[OwnerId, str]:
    """Who is called what. A file that holds no name is passed over. Raises DiskFault."""
    found: dict[OwnerId, str] = {}
    try:
        for path in sorted(directory.glob("*" + _SUFFIX)):
            try:
                with path.open("rb") as file:
                    found[OwnerId(bytes.fromhex(path.stem))] = check_name(file.read(_BYTES).decode().strip("\n"))
            except (ValueError, BadRequest):
                continue
    except OSError as error:
        raise translated(error, directory) from error
    return MappingProxyType(found)


def save_name(directory: Path, owner: OwnerId, name: str) -> None:
    """Call a friend so, durably. Raises DiskFull, DiskFault."""
    make_folder(directory)
    put_file(directory / (owner.hex() + _SUFFIX), name.encode() + b"\n")


def forget_name(directory: Path, owner: OwnerId) -> None:
    """Call nobody so any more. Raises DiskFault."""
    remove_file(directory / (owner.hex() + _SUFFIX))
