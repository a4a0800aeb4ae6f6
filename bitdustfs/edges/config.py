"""HOME/config.toml: a closed list of keys, each with a type, a default and a meaning.

`Settings` is the list. A flag on the command line wins over the file, the file over the default. An unknown key is
refused with the nearest known one: a misspelt key that is silently ignored is a setting that does not hold.
Sizes and durations are written as people write them (`10 GiB`, `30s`).
"""

from __future__ import annotations

import dataclasses
import difflib
import fcntl
import logging
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

import tomli_w

from bitdustfs.core.addresses import can_be_announced
from bitdustfs.core.pace import LEAST_LIMIT_BYTES_S
from bitdustfs.core.placement import parse_code
from bitdustfs.core.thinning import USUAL
from bitdustfs.core.units import exact_size, format_duration, parse_duration, parse_size
from bitdustfs.edges.home import translated, write_atomically
from bitdustfs.errors import BadFormat, BadRequest, BitdustError
from bitdustfs.model import NodeId, OwnerId

T = TypeVar("T")
log = logging.getLogger(__name__)

DEFAULT_PORT = 4878
CONFIG_BYTES = 1024 * 1024  # more than anybody writes by hand
_COUNT_MOST = 10_000
LOG_LEVELS = ("debug", "info", "warning", "error")
ALLOW, DIAL = "allow", "dial"  # the keys that are tables of the person's own entries, like `allow.OWNERID = SIZE`
_RENAMED = {"listen": "give.listen", "donate": "give.size", "shelf": "give.shelf"}


def parse_address(text: str) -> tuple[str, int]:
    """Read ADDR:PORT, with an IPv6 address in brackets.

    Raises:
        BadRequest: says what is wrong with it.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadRequest(what=f"{text!r} is not an address: write ADDR:PORT, like 192.0.2.7:{DEFAULT_PORT}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadRequest(what=f"{text!r} is not an address: write an IPv6 address in brackets, like [::1]:{port}")
    if not host:
        raise BadRequest(what=f"{text!r} has no address before the port: write 0.0.0.0:{port} for all of them")
    return host, int(port)


def parse_owner(text: str) -> OwnerId:
    """Read an owner id: 64 hex digits. Raises BadRequest."""
    try:
        owner = bytes.fromhex(text.strip())
    except ValueError:
        owner = b""
    if len(owner) != 32:
        raise BadRequest(what=f"{text!r} is not an owner id: it has 64 hex digits; `bitdustfs id` prints yours")
    return OwnerId(owner)


def parse_node(text: str) -> NodeId:
    """Read a node id: 64 hex digits. Raises BadRequest."""
    try:
        node = bytes.fromhex(text.strip())
    except ValueError:
        node = b""
    if len(node) != 32:
        raise BadRequest(what=f"{text!r} is not a node id: it has 64 hex digits; `bitdustfs id` prints yours")
    return NodeId(node)


def _address(value: object) -> str:
    parse_address(_text(value))
    return _text(value).strip()


def _address_or_none(value: object) -> str:
    return _address(value) if value else ""


def _bootstrap(value: object) -> str:
    text = _text(value)
    for address in addresses_in(text):
        parse_address(address)
    return text


def _announce(value: object) -> str:
    text = _text(value)
    for address in addresses_in(text):
        parse_address(address)
        if not can_be_announced(address):
            raise BadRequest(
                what=f"{address!r} is told to friends: write it in numbers, like 203.0.113.7:{DEFAULT_PORT}"
            )
    return text


def addresses_in(text: str) -> tuple[str, ...]:
    """The addresses in the value of `dht.bootstrap` or `give.announce`."""
    return tuple(address for address in (each.strip() for each in text.split(",")) if address)


def _code(value: object) -> str:
    return str(parse_code(_text(value))) if value else ""


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return parse_size(_text(value))


def _limit(value: object) -> int:
    size = _size(value.removesuffix("/s") if isinstance(value, str) else value)
    if 0 < size < LEAST_LIMIT_BYTES_S:
        raise BadRequest(what=f"{value!r} is too little: at least {LEAST_LIMIT_BYTES_S // 1024}K, or 0 for no limit")
    return size


def _duration(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return parse_duration(_text(value))


def _count(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_COUNT_MOST)) and int(text) <= _COUNT_MOST):
        raise BadRequest(what=f"{value!r} is not a number from 0 to {_COUNT_MOST}")
    return int(text)


def _count_or_none(value: object) -> int | None:
    return None if value == "" else _count(value)


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if _text(value).lower() not in words:
        raise BadRequest(what=f"{value!r} is neither true nor false")
    return words[_text(value).lower()]


def _level(value: object) -> str:
    level = _text(value).lower()
    if level not in LOG_LEVELS:
        raise BadRequest(what=f"{value!r} is not a log level: choose {', '.join(LOG_LEVELS)}")
    return level


def _path(value: object) -> str:
    text = _text(value)
    if text and not os.path.isabs(text):
        raise BadRequest(what=f"{text!r} must be an absolute path")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(what=f"{value!r} should be written in quotes")
    return value


def _allow(value: object) -> Mapping[str, int]:
    if not isinstance(value, Mapping):
        raise BadRequest(what="it is a table: one line `OWNERID = SIZE` for each customer")
    return MappingProxyType({parse_owner(str(owner)).hex(): _size(size) for owner, size in value.items()})


def _dial(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise BadRequest(what='it is a table: one line `NODEID = "ADDR:PORT"` for each node')
    return MappingProxyType({parse_node(str(node)).hex(): _address(address) for node, address in value.items()})


def _key(default: T, parse: Callable[[object], T], meaning: str, *, name: str = "") -> T:
    """A field with its parser and its meaning. To the type checker it is its default.

    Args:
        name: of the key, if it has a dot and so lies in a table of the file.
    """
    metadata = {"parse": parse, "meaning": meaning, "name": name}
    spec: T = field(default_factory=lambda: default, metadata=metadata)
    return spec


@dataclass(frozen=True, slots=True)
class Settings:
    """What config.toml may say. The order is that of `config list`."""

    give_listen: str = _key(
        "",
        _address_or_none,
        f"ADDR:PORT where `mount` and `serve` wait for friends; empty: `mount` does not, `serve` at "
        f"0.0.0.0:{DEFAULT_PORT}",
        name="give.listen",
    )
    give_size: int = _key(
        0,
        _size,
        "bytes of this disk for all friends together; 0: `mount` keeps nothing for others, `serve` 10 GiB",
        name="give.size",
    )
    give_announce: str = _key(
        "",
        _announce,
        "further addresses where friends reach this machine, with commas between them",
        name="give.announce",
    )
    give_shelf: str = _key("", _path, "directory for other people's fragments; empty: HOME/shelf", name="give.shelf")
    allow: Mapping[str, int] = _key(
        MappingProxyType({}), _allow, "customers: allow.OWNERID is how many bytes that owner may store here"
    )
    dial: Mapping[str, str] = _key(
        MappingProxyType({}), _dial, "nodes to keep a connection to: dial.NODEID is where, as ADDR:PORT"
    )
    dht_enabled: bool = _key(
        True,
        _bool,
        "find friends who moved, and be found after a loss, through a hash table that strangers take part in",
        name="dht.enabled",
    )
    dht_bootstrap: str = _key(
        "",
        _bootstrap,
        "addresses to begin from in the hash table, beside those of friends, with commas between them",
        name="dht.bootstrap",
    )
    lan_enabled: bool = _key(
        True,
        _bool,
        "say in local networks that this machine is there, as only friends understand, and listen for them",
        name="lan.enabled",
    )
    code: str = _key("", _code, "erasure code K/N of new blocks; empty: chosen by the number of suppliers")
    spool: int = _key(0, _size, "bytes of local cache and unsent data; 0: 20 GiB, or a fifth of what is free")
    read_timeout: float = _key(30.0, _duration, "how long a read waits for suppliers before it fails")
    patience: float = _key(
        0.0,
        _duration,
        "how long a supplier may stay away before it is replaced; 0: 6 h to 3 days, by what can be spared",
    )
    limits_up: int = _key(
        0, _limit, "bytes a second that leave this machine for other nodes, at most; 0: no limit", name="limits.up"
    )
    limits_down: int = _key(
        0, _limit, "bytes a second that come from other nodes, at most; 0: no limit", name="limits.down"
    )
    snapshots_hourly: int | None = _key(
        None,
        _count_or_none,
        "snapshots made by themselves: of how many hours with changes one is kept; empty: as the volume has it, "
        f"{USUAL.hourly} at first",
        name="snapshots.hourly",
    )
    snapshots_daily: int | None = _key(
        None, _count_or_none, f"the same for days; {USUAL.daily} at first", name="snapshots.daily"
    )
    snapshots_weekly: int | None = _key(
        None, _count_or_none, f"the same for weeks; {USUAL.weekly} at first", name="snapshots.weekly"
    )
    snapshots_monthly: int | None = _key(
        None, _count_or_none, f"the same for months; {USUAL.monthly} at first", name="snapshots.monthly"
    )
    practice: bool = _key(False, _bool, "all suppliers are on this machine; nothing is ever called safe")
    log_level: str = _key("info", _level, "least important lines that go to the log: " + ", ".join(LOG_LEVELS))


KEYS: Mapping[str, dataclasses.Field[object]] = MappingProxyType(
    {f.metadata["name"] or f.name: f for f in dataclasses.fields(Settings)}
)
_TABLES = frozenset(name.partition(".")[0] for name in KEYS if "." in name)  # of keys with a dot
_SIZES = ("give.size", "spool", "limits.up", "limits.down")
_DURATIONS = ("read_timeout", "patience")
_HOW = {ALLOW: "set allow.OWNERID to a size", DIAL: "set dial.NODEID to ADDR:PORT"}


def meaning(name: str) -> str:
    """What a key is for."""
    return str(KEYS[name].metadata["meaning"])


def load(path: Path) -> Settings:
    """Read the file; a file that does not exist says nothing, so every key has its default.

    Raises:
        BadFormat: it is not TOML. BadRequest: a key is unknown or has a wrong value.
    """
    try:
        return _settings(_read(path))
    except BadRequest as bad:
        raise BadRequest(what=f"{path}: {bad}") from bad


class Watched:
    """The settings of a file that may change while we run. What cannot be read leaves them as they were."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._stamp = self._look()
        self.settings = settings

    def has_changed(self) -> bool:
        """Read the file again if it is another one than at the last look; say whether it says something else."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        before = self.settings
        try:
            self.settings = load(self._path)
        except BitdustError as bad:
            log.warning("the settings stay as they were: %s", bad)
        return self.settings != before

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns


def show(settings: Settings, name: str) -> str:
    """The value of a key, `allow.OWNERID` and `dial.NODEID` included, as the file and the person write it.

    Raises:
        BadRequest: no such key.
    """
    known, entry = _split(name)
    value = getattr(settings, KEYS[known].name)
    if known not in _HOW:
        return _shown(known, value)
    write = exact_size if known == ALLOW else str
    if entry:
        return write(value.get(entry, 0 if known == ALLOW else ""))
    return ", ".join(f"{each} = {write(kept)}" for each, kept in value.items())


def store(path: Path, name: str, text: str) -> Settings:
    """Set one key in the file and return what it says now.

    `allow.OWNERID` set to 0 takes the customer out, `dial.NODEID` set to nothing the node.

    Raises:
        BadRequest: unknown key or wrong value; the file is not changed.
    """
    known, entry = _split(name)
    with _alone(path.parent):
        return _store(path, known, entry, text)


def _store(path: Path, known: str, entry: str, text: str) -> Settings:
    said = _read(path)
    _settings(said)
    if known not in _HOW:
        table, _, entry = known.rpartition(".")
        place = cast("dict[str, object]", said.setdefault(table, {})) if table else said
        place[entry] = _stored(known, text)
    elif entry:
        size = parse_size(text) if known == ALLOW else 0
        value = (exact_size(size) if size else "") if known == ALLOW else _address_or_none(text)
        table_now = {str(each).lower(): kept for each, kept in cast("dict[str, object]", said.get(known, {})).items()}
        table_now.pop(entry, None)
        said[known] = table_now | ({entry: value} if value else {})
    else:
        raise BadRequest(what=f"`{known}` is a table: {_HOW[known]}")
    settings = _settings(said)
    write_atomically(path, tomli_w.dumps(said).encode())
    return settings


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let nobody else change the file meanwhile. HOME/lock will not do: it is held for as long as a mount serves."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as bad:
        raise translated(bad, directory) from bad
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held by others for one small write only
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES)
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
        raise BadFormat(what=f"{path} is not TOML: {bad}") from bad
    except OSError as bad:
        raise translated(bad, path) from bad


def _settings(said: Mapping[str, object]) -> Settings:
    parsed: dict[str, object] = {}
    for name, value in _flat(said):
        _split(name)
        parse = cast("Callable[[object], object]", KEYS[name].metadata["parse"])
        try:
            parsed[KEYS[name].name] = parse(value)
        except BadRequest as bad:
            raise BadRequest(what=f"{name}: {bad}") from bad
    return Settings(**parsed)  # type: ignore[arg-type]  # each value went through its field's own parser


def _flat(said: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The keys of the file, those in a table of ours with its name before a dot."""
    for name, value in said.items():
        if name not in _TABLES:
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{entry}", each) for entry, each in value.items())
        else:
            raise BadRequest(what=f"{name}: it is a table, with the keys of which `config list` tells")


def _split(name: str) -> tuple[str, str]:
    known, _, entry = name.partition(".")
    if name in KEYS:
        return name, ""
    if name in _RENAMED:
        raise BadRequest(what=f"the key {name!r} is called {_RENAMED[name]!r} now: write that one")
    if known not in _HOW:
        near = difflib.get_close_matches(name.lower(), KEYS, n=1, cutoff=0.0)
        raise BadRequest(what=f"there is no key {name!r}: did you mean {near[0]!r}? See `bitdustfs config list`")
    return known, (parse_owner(entry) if known == ALLOW else parse_node(entry)).hex()


def _stored(name: str, text: str) -> object:
    parse = cast("Callable[[object], object]", KEYS[name].metadata["parse"])
    try:
        value = parse(text)
    except BadRequest as bad:
        raise BadRequest(what=f"{name}: {bad}") from bad
    return value if isinstance(value, bool) else _shown(name, value)


def _shown(name: str, value: object) -> str:
    if name in _SIZES:
        return exact_size(cast(int, value))
    if value is None:
        return ""
    if name in _DURATIONS:
        return format_duration(cast(float, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
