"""The control socket, server's end: answers the verbs of the command line inside the process that serves a mount.

`control` has the format of the lines. Reading and answering are bounded in bytes, time and number, although only our
own user can connect: a broken client must not cost the mount.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio

from bitdustfs.edges.control import REQUEST_BYTES, Args, encode_error, encode_line, named, parse_request
from bitdustfs.errors import BadRequest, BitdustError, Kind

_REQUEST_S = 10  # the client is a program of ours: it sends its line at once
_LAST_LINE_S = 2  # for the answer of a request that ended the server
_CONNECTIONS = 32

Report = Callable[[Mapping[str, object]], Awaitable[None]]
Handler = Callable[[Args, Report], Awaitable[Mapping[str, object]]]

log = logging.getLogger(__name__)


async def serve(
    path: Path, handlers: Mapping[str, Handler], *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests at `path` until cancelled. The caller holds the home, so a socket that is there is stale.

    A handler gets the request's arguments and a function that sends progress. It is cancelled when its client goes
    away. What it raises costs this request only. A handler may cancel the scope around this server: its answer is
    sent all the same.
    """
    limit = trio.CapacityLimiter(_CONNECTIONS)

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            async with limit, stream:
                await _answer(stream, handlers)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a control client went away before its answer")

    with named(path) as short_path:
        path.unlink(missing_ok=True)
        listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listening.bind(short_path)
        path.chmod(0o600)
        listening.listen(_CONNECTIONS)
    try:
        await trio.serve_listeners(serve_one, [trio.SocketListener(listening)], task_status=task_status)
    finally:
        path.unlink(missing_ok=True)


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    with trio.move_on_after(_REQUEST_S) as waiting:
        request = await _receive_line(stream)
    if waiting.cancelled_caught or not request:
        return
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope

        async def report(step: Mapping[str, object]) -> None:
            try:
                await stream.send_all(encode_line({"progress": step}))
            except trio.BrokenResourceError:
                scope.cancel()  # nobody waits for this request any more

        nursery.start_soon(_cancel_at_end, stream, scope)
        answer = await _handle(request, handlers, report)
        # no checkpoint between the handler's return and the shield
        with trio.CancelScope(deadline=trio.current_time() + _LAST_LINE_S, shield=True):
            await stream.send_all(encode_line(answer))
        scope.cancel()


async def _handle(request: bytes, handlers: Mapping[str, Handler], report: Report) -> Mapping[str, object]:
    try:
        verb, args = parse_request(request)
        if verb not in handlers:
            raise BadRequest(what=f"the process that serves this mount does not know the request {verb!r}")
        return {"done": await handlers[verb](args, report)}
    except BitdustError as bad:
        return encode_error(bad.kind, str(bad))
    except Exception as bad:  # a fault in one request must not end the mount (I12)
        log.exception("a control request failed")
        return encode_error(Kind.BUG, f"a fault of our own, {type(bad).__name__}: the log says where")


async def _cancel_at_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while await stream.receive_some(1024):
            pass
    except trio.BrokenResourceError:
        pass
    scope.cancel()


async def _receive_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while b"\n" not in received:
        if len(received) > REQUEST_BYTES:
            return bytes(received)  # parse_request refuses it by its length
        more = await stream.receive_some(REQUEST_BYTES)
        if not more:
            return b""
        received += more
    return bytes(received.partition(b"\n")[0])
