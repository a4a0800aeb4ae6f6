"""What all verbs share: the options `--home`, `--json` and `--log-level`, how they find their home, how they print.

Verbs import this and little else at the top: `bitdustfs --help` loads every verb, and `status` must answer at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from bitdustfs.cli.processes import Starter, start_daemons
from bitdustfs.core.report import StopReport
from bitdustfs.core.units import count, format_size, parse_duration, parse_size
from bitdustfs.edges import mounts
from bitdustfs.edges.config import LOG_LEVELS, Settings, load
from bitdustfs.edges.home import Home, check_free, check_home, find_home
from bitdustfs.edges.mounts import Mount
from bitdustfs.errors import BadRequest, BitdustError, Forbidden, InUse, NotFound
from bitdustfs.model import Role, Unsent

if TYPE_CHECKING:
    from bitdustfs.core.certificate import Identity

F = TypeVar("F", bound=Callable[..., Any])

TO_WRITE = (  # what is done about a state that is perhaps not the newest
    "run `bitdustfs recover` again, with --beside if your other machine is to go on, too; if too few suppliers "
    "answer for that, --wait waits for more, and --accept goes on from this state"
)

SENT_LATER = "sent after the next mount, or put aside if another machine of yours has taken the volume over by then"


@dataclass(slots=True)
class Asked:
    """The options that may stand before the verb or after it, and how verbs start those that go on."""

    home: str | None = None
    as_json: bool = False
    log_level: str | None = None
    start: Starter = start_daemons

    def find_home(self) -> Home:
        """The state directory, whether it exists or not."""
        return find_home(self.home)

    def open_home(self) -> Home:
        """The state directory of somebody who ran `init`. Raises NotFound, Forbidden, BadRequest."""
        home = self.find_home()
        check_home(home)
        return home

    def settings(self, home: Home) -> Settings:
        """What config.toml says, under the flags that were given."""
        return load(home.config)

    def level(self, settings: Settings) -> str:
        """How much to log."""
        return self.log_level or settings.log_level

    def home_of(self, path: str | None) -> tuple[Home, Mount | None, str]:
        """The home that serves a path, its mount, and the path inside it.

        Without a path it is the chosen home and the mount that it serves, if it serves one.

        Raises:
            NotFound: the path is on no mount of ours. BadRequest: --home names another home.
        """
        listed = mounts.read_mounts()
        if path is None:
            home = self.find_home()
            mount = next((m for m in reversed(listed) if m.is_ours and m.home == str(home)), None)
            return home, mount, "/"
        place = mounts.place_of(path)
        mount = mounts.mount_of(place, listed)
        if mount is None or not mount.is_ours or mount.home is None:
            raise NotFound(what=f"{path} does not lie in a mount of bitdustfs")
        home = find_home(mount.home)
        if self.home is not None and self.find_home() != home:
            raise BadRequest(what=f"{path} is served by {home}, not by the home that --home names")
        return home, mount, "/" + os.path.relpath(place, mount.mountpoint).removeprefix(".")


class Size(click.ParamType[int]):
    """A size such as 10G."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_size(value)


class Seconds(click.ParamType[float]):
    """A duration such as 30 or 5m."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return float(value) if isinstance(value, int | float) else parse_duration(value)


def with_common_options(function: F) -> F:
    """Let a verb take the common options too, wherever the person writes them. Not repeated in its help."""
    for flag, field, extra in (
        ("--home", "home", {"metavar": "DIR"}),
        ("--log-level", "log_level", {"type": click.Choice(LOG_LEVELS)}),
    ):
        function = click.option(flag, hidden=True, expose_value=False, callback=_noter(field), **extra)(function)
    return cast(F, click.pass_obj(function))


def with_json(function: F) -> F:
    """Let a verb print JSON instead of text for people."""
    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=_noter("as_json"), help="Print JSON, for programs."
    )
    return option(function)


def show_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(value))


def today() -> str:
    """The date of today where this machine is."""
    return datetime.now(UTC).astimezone().date().isoformat()


def moment(time_s: int) -> str:
    """A date and time where this machine is."""
    return datetime.fromtimestamp(time_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def only_read(time_s: int | None) -> str:
    """Say why a volume of a machine that only reads is mounted read-only, and what to do.

    Args:
        time_s: when it was as it is; None: nobody knows.
    """
    as_of = f" of {moment(time_s)}" if time_s is not None else ""
    return (
        f"this is the state{as_of}, and a newer one may exist, which is shown when a supplier tells of it. "
        f"To write on this machine, unmount, and {TO_WRITE}"
    )


def refuse_reader(identity: Identity) -> None:
    """Refuse a machine that was recovered only to read. Raises Forbidden: says what to do."""
    if identity.certificate.role is Role.READER:
        raise Forbidden(what=f"this machine can only read the volume. To change it, {TO_WRITE}")


def refuse_mounted(home: Home) -> None:
    """Refuse a home that a process holds. Raises InUse: says what to do."""
    try:
        check_free(home)
    except InUse as busy:
        mount = next((m for m in mounts.read_mounts() if m.is_ours and m.home == str(home)), None)
        if mount is None:
            raise
        raise InUse(what=f"the volume is mounted: run `bitdustfs umount {mount.mountpoint}` first") from busy


def legible(name: str) -> str:
    """Write the name of a file on one line: a line end as `\\n`, an escape as `\\x1b`, a backslash as two.

    Bytes that are no UTF-8, which Python keeps as lone surrogates, stay as they are.
    """
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in name)


def _is_shown(character: str) -> bool:
    return character != "\\" and (character.isprintable() or "\udc80" <= character <= "\udcff")


def only_here(report: StopReport) -> str:
    """Say what a mount that ended leaves on this machine alone."""
    if not report["files_local"]:
        return "Nothing exists only here."
    here = f"{count(report['files_local'], 'file')} ({format_size(report['bytes_local'])})"
    match Unsent(report["becomes"]):
        case Unsent.SENT:
            return f"Only on this machine: {here}; they are {SENT_LATER}."
        case Unsent.ASIDE:
            return (
                f"Only on this machine: {here}. The volume was written by {report['writer']}: the next mount that "
                "writes takes that state, and puts these into a folder 'Put aside …' in it; if nothing was changed "
                "there, it sends them."
            )
        case Unsent.KEPT:
            return (
                f"Only on this machine: {here}. They are never sent, because the owner has certified his machines "
                "anew without this one: mount it again, and copy them to another place."
            )


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group and in the groups in it."""
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from leaves(member)
        else:
            yield member


def first_of_ours(error: BaseException) -> BitdustError | None:
    """The error to tell the person: itself, or the first of a group of such. None: there is a fault among them."""
    found = list(leaves(error)) if isinstance(error, BaseExceptionGroup) else [error]
    ours = [leaf for leaf in found if isinstance(leaf, BitdustError)]
    return ours[0] if ours and len(ours) == len(found) else None


def explain(error: BitdustError) -> None:
    """Say on stderr what happened."""
    click.echo(f"bitdustfs: {error}", err=True)


def _noter(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Asked), field, value)

    return note
