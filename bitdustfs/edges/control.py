"""The control socket, client's end: how the verbs talk to the process that serves a mount. Blocking.

One connection is one request. The client sends one JSON line `{"version": 1, "verb": "sync", "with": {…}}`; the
server answers with any number of `{"progress": {…}}` lines and ends with `{"done": {…}}` or `{"error": {"kind": "…",
"text": "…"}}`. Who may connect is decided by the directory: the home has mode 0700.

A socket's path may have 107 bytes at most, and a home may be deeper than that, so both ends name it through a
descriptor of its directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bitdustfs.errors import (
    AlreadyThere,
    BadFormat,
    BadRequest,
    BitdustError,
    Forbidden,
    InUse,
    Kind,
    NotFound,
    ReadOnly,
    SetupMissing,
    Unavailable,
)

VERSION = 1
REQUEST_BYTES = 64 * 1024  # a verb and a few paths
ANSWER_BYTES = 4 * 1024 * 1024  # a report with many suppliers and much trouble
_CONNECT_S = 10

Args = Mapping[str, Any]


class _ToldFull(BitdustError):
    kind = Kind.FULL


class _ToldQuota(BitdustError):
    kind = Kind.QUOTA


class _ToldLost(BitdustError):
    kind = Kind.LOST


class _ToldHostile(BitdustError):
    kind = Kind.HOSTILE


# One class for each kind, so that an error from the other end has the exit code it had there.
TOLD: Mapping[Kind, type[BitdustError]] = MappingProxyType(
    {
        Kind.USAGE: BadRequest,
        Kind.MISSING: NotFound,
        Kind.EXISTS: AlreadyThere,
        Kind.BUSY: InUse,
        Kind.REFUSED: Forbidden,
        Kind.UNAVAILABLE: Unavailable,
        Kind.FULL: _ToldFull,
        Kind.QUOTA: _ToldQuota,
        Kind.LOST: _ToldLost,
        Kind.READONLY: ReadOnly,
        Kind.FORMAT: BadFormat,
        Kind.HOSTILE: _ToldHostile,
        Kind.SETUP: SetupMissing,
        Kind.BUG: BitdustError,
    }
)


class NotServed(Unavailable):
    """No process answers for this home."""

    text = "nothing serves {home}: mount it first"


def told_error(kind: str, text: str) -> BitdustError:
    """Make the error again that the other end told us of."""
    try:
        return TOLD[Kind(kind)](what=text)
    except ValueError:
        return BitdustError(what=text)


def parse_request(line: bytes) -> tuple[str, Args]:
    """Read one request line.

    Raises:
        BadRequest: too long or not a request. BadFormat: of another version.
    """
    if len(line) > REQUEST_BYTES:
        raise BadRequest(what="the request is too long")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as bad:
        raise BadRequest(what="the request is not JSON") from bad
    if not isinstance(request, dict):
        raise BadRequest(what="the request is not a JSON object")
    if request.get("version") != VERSION:
        raise BadFormat(what="the mount is served by another version of bitdustfs: unmount it and mount it again")
    verb, args = request.get("verb"), request.get("with", {})
    if not isinstance(verb, str) or not isinstance(args, dict):
        raise BadRequest(what="the request does not name a verb")
    return verb, args


# --- client -------------------------------------------------------------------------------------------------


def ask(
    path: Path,
    verb: str,
    args: Args = MappingProxyType({}),
    *,
    silence_s: float | None,
    progress: Callable[[Args], None] = lambda _step: None,
) -> Args:
    """Send one request and wait for its end. Blocking.

    Args:
        silence_s: how long to wait for the next line; None: as long as the other end lives.
        progress: called with each step.
    Raises:
        NotServed: nobody listens. Unavailable: no answer. BitdustError: what the other end says, with its kind.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            short_path = stack.enter_context(named(path))
            connection.settimeout(_CONNECT_S)
            connection.connect(short_path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as bad:
            raise NotServed(home=path.parent) from bad
        except OSError as bad:
            raise Unavailable(what=f"the process that serves {path.parent} cannot be asked: {bad}") from bad
        try:
            connection.sendall(encode_line({"version": VERSION, "verb": verb, "with": dict(args)}))
            connection.settimeout(silence_s)
            for answer in _answers(stack.enter_context(connection.makefile("rb")).readline):
                if "progress" in answer:
                    progress(answer["progress"])
                    continue
                if "done" in answer:
                    return _object(answer["done"])
                error = _object(answer.get("error"))
                raise told_error(str(error.get("kind")), str(error.get("text")))
        except TimeoutError as bad:
            raise Unavailable(what=f"the process that serves {path.parent} does not answer") from bad
        except OSError as bad:
            raise Unavailable(what=f"the process that serves {path.parent} went away: {bad.strerror}") from bad
    raise Unavailable(what=f"the process that serves {path.parent} ended before it answered")


def _answers(readline: Callable[[int], bytes]) -> Iterator[dict[str, Any]]:
    while line := readline(ANSWER_BYTES):
        if not line.endswith(b"\n"):
            return
        try:
            yield _object(json.loads(line))
        except ValueError as bad:
            raise BadFormat(what="the process that serves the mount answered something that is not JSON") from bad


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadFormat(what="the process that serves the mount answered something unexpected")
    return value


# --- both ---------------------------------------------------------------------------------------------------


def encode_line(value: Mapping[str, object]) -> bytes:
    """Write one line of the protocol."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def encode_error(kind: Kind, text: str) -> Mapping[str, object]:
    """The last line of a request that failed."""
    return {"error": {"kind": kind.value, "text": text}}


@contextlib.contextmanager
def named(path: Path) -> Iterator[str]:
    """A short path for a socket, good inside the `with`."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
