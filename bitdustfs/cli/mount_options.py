"""What the person asks of a mount: `-o` options and flags as one value. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bitdustfs.core.placement import parse_code
from bitdustfs.core.units import GIB, MIB, parse_duration, parse_size
from bitdustfs.edges.config import Settings
from bitdustfs.errors import BadRequest
from bitdustfs.model import Code

SPOOL_MOST_BYTES = 20 * GIB
SPOOL_SHARE = 5  # the default takes at most this part of what is free: 20 %
SPOOL_USUAL_BYTES = 64 * MIB  # but no less, unless it is asked for
SPOOL_LEAST_BYTES = 16 * MIB  # room for a few blocks on their way, whatever is asked
BY_NUMBER = "auto"  # `--code`: what was chosen before is forgotten
MOST_BACKGROUND = 10_000
FSYNC_DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class MountWish:
    """How one mount is served."""

    place: str  # the mountpoint, absolute
    code: Code | None  # of new blocks, as asked for on the command line; it is kept as the volume's
    by_number: bool  # it is to go by the number of suppliers again, as asked for there
    settings: Settings  # config.toml, under `-o`
    spool_bytes: int  # 0: the default
    read_timeout_s: float
    fsync_safe: bool = False  # an fsync waits until the file survives this machine
    fsync_deadline_s: float = FSYNC_DEADLINE_S
    allow_other: bool = False
    read_only: bool = False
    max_background: int = 0  # 0: the default
    takes_over: bool = False  # from whoever writes the volume now


def _parse_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= MOST_BACKGROUND:
        raise BadRequest(what=f"a number from 1 to {MOST_BACKGROUND} is wanted, not {text!r}")
    return int(text)


def _parse_fsync(text: str) -> bool:
    if text not in ("local", "safe"):
        raise BadRequest(what=f"fsync={text} makes no sense: it is local (durable on this disk) or safe")
    return text == "safe"


_WITHOUT_VALUE = ("allow_other", "ro")
_WITH_VALUE: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        "spool": parse_size,
        "read_timeout": parse_duration,
        "max_background": _parse_count,
        "fsync": _parse_fsync,
        "fsync_deadline": parse_duration,
    }
)


def parse_options(texts: Sequence[str]) -> Mapping[str, object]:
    """Read the values of `-o`: words with commas between them.

    Returns:
        option -> value; True for one without a value.
    Raises:
        BadRequest: an option is unknown, lacks its value, or has one too many.
    """
    found: dict[str, object] = {}
    for word in (word.strip() for text in texts for word in text.split(",")):
        name, equals, value = word.partition("=")
        if not word or word == "rw":
            continue
        if name in _WITHOUT_VALUE:
            if equals:
                raise BadRequest(what=f"the mount option {name} takes no value")
            found[name] = True
        elif name in _WITH_VALUE:
            if not value:
                raise BadRequest(what=f"the mount option {name} needs a value: {name}=…")
            found[name] = _WITH_VALUE[name](value)
        else:
            known = (*_WITHOUT_VALUE, *_WITH_VALUE)
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise BadRequest(what=f"there is no mount option {name!r}; {meant}")
    return MappingProxyType(found)


def mount_options(
    place: str, code: str | None, words: Sequence[str], settings: Settings, *, takes_over: bool = False
) -> MountWish:
    """Put flags over settings.

    Raises:
        BadRequest: a code or an option makes no sense.
    """
    given = parse_options(words)
    spool_bytes = given.get("spool", settings.spool)
    read_timeout_s = given.get("read_timeout", settings.read_timeout)
    assert isinstance(spool_bytes, int) and isinstance(read_timeout_s, float)
    if 0 < spool_bytes < SPOOL_LEAST_BYTES:
        raise BadRequest(what=f"a spool of {spool_bytes} bytes is too small: give it 16 MiB or more")
    if read_timeout_s <= 0:
        raise BadRequest(what="a read timeout must be longer than nothing")
    max_background = given.get("max_background", 0)
    fsync_deadline_s = given.get("fsync_deadline", FSYNC_DEADLINE_S)
    assert isinstance(max_background, int) and isinstance(fsync_deadline_s, float)
    if fsync_deadline_s <= 0:
        raise BadRequest(what="an fsync deadline must be longer than nothing")
    return MountWish(
        place=place,
        code=parse_code(code) if code not in (None, BY_NUMBER) else None,
        by_number=code == BY_NUMBER,
        settings=settings,
        spool_bytes=spool_bytes,
        read_timeout_s=read_timeout_s,
        fsync_safe=bool(given.get("fsync", False)),
        fsync_deadline_s=fsync_deadline_s,
        allow_other="allow_other" in given,
        read_only="ro" in given,
        max_background=max_background,
        takes_over=takes_over,
    )


def default_spool_bytes(free_bytes: int) -> int:
    """How much the spool takes if nobody says: 20 GiB, or 20 % of what is free."""
    return max(SPOOL_USUAL_BYTES, min(SPOOL_MOST_BYTES, free_bytes // SPOOL_SHARE))


def wanted_code(options: MountWish, suppliers: int) -> Code | None:
    """The code that is asked for, by the flag or else the config; None: none is.

    Raises:
        BadRequest: the flag asks for more suppliers than are hired.
    """
    if options.code is None:
        if options.by_number:
            return None
        return parse_code(options.settings.code) if options.settings.code else None
    if suppliers < options.code.k:
        raise BadRequest(
            what=f"--code {options.code} needs {options.code.k} suppliers at least, and {suppliers} are hired: "
            "hire more, or leave --code out"
        )
    return options.code
