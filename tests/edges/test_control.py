"""The control socket: a real server in trio, the blocking client in a thread."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from bitdustfs.edges import control, control_server
from bitdustfs.edges.control import ANSWER_BYTES, REQUEST_BYTES, Args, NotServed, ask, told_error
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.errors import BadFormat, BadRequest, BitdustError, Kind, PeerRefused, Unavailable

PATIENCE_S = 60


async def echo(args: Args, _report: Report) -> Mapping[str, object]:
    return {"args": dict(args)}


async def count(args: Args, report: Report) -> Mapping[str, object]:
    for number in range(args["to"]):
        await report({"number": number})
    return {"counted": args["to"]}


async def refuse(_args: Args, _report: Report) -> Mapping[str, object]:
    raise PeerRefused(peer="s1", what="no contract")


async def stumble(_args: Args, _report: Report) -> Mapping[str, object]:
    raise ZeroDivisionError


HANDLERS: Mapping[str, Handler] = {"echo": echo, "count": count, "refuse": refuse, "stumble": stumble}


@asynccontextmanager
async def serving(path: Path, handlers: Mapping[str, Handler] = HANDLERS) -> AsyncIterator[trio.CancelScope]:
    async with trio.open_nursery() as nursery:
        await nursery.start(control_server.serve, path, handlers)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def asked(path: Path, verb: str, args: Args | None = None, steps: list[Args] | None = None) -> Args:
    collect = (steps if steps is not None else []).append
    return await trio.to_thread.run_sync(
        partial(ask, path, verb, args or {}, silence_s=PATIENCE_S, progress=collect), abandon_on_cancel=True
    )


async def sent(path: Path, content: bytes) -> bytes:
    """Send raw bytes and return everything that comes back."""
    with control.named(path) as name:
        stream = await trio.open_unix_socket(name)
    async with stream:
        with trio.fail_after(PATIENCE_S):
            await stream.send_all(content)
            received = b""
            while more := await stream.receive_some():
                received += more
    return received


async def test_a_request_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        assert await asked(tmp_path / "s", "echo", {"path": "/ä\n"}) == {"args": {"path": "/ä\n"}}


async def test_progress_comes_before_the_end(tmp_path: Path) -> None:
    steps: list[Args] = []
    async with serving(tmp_path / "s"):
        assert await asked(tmp_path / "s", "count", {"to": 3}, steps) == {"counted": 3}
    assert steps == [{"number": 0}, {"number": 1}, {"number": 2}]


async def test_an_error_keeps_its_kind_and_its_text(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        with pytest.raises(BitdustError, match="s1 refused: no contract") as caught:
            await asked(tmp_path / "s", "refuse")
    assert caught.value.kind is Kind.REFUSED


async def test_a_fault_costs_one_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path / "s"):
        with caplog.at_level(logging.CRITICAL, logger="bitdustfs.edges.control_server"):
            with pytest.raises(BitdustError, match="ZeroDivisionError") as caught:
                await asked(tmp_path / "s", "stumble")
        assert caught.value.kind is Kind.BUG
        assert await asked(tmp_path / "s", "echo") == {"args": {}}


async def test_an_unknown_verb_is_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        with pytest.raises(BadRequest, match="'dance'"):
            await asked(tmp_path / "s", "dance")


@pytest.mark.parametrize(
    "content",
    [
        b"not json\n",
        b"[]\n",
        b"[" * 30_000 + b"\n",
        b'{"version": 1}\n',
        b'{"version": 1, "verb": "echo", "with": 3}\n',
        b'{"version": 9, "verb": "echo"}\n',
        b"\xff\xfe\n",
        b"x" * (REQUEST_BYTES + 10),
    ],
)
async def test_a_bad_request_line_is_answered_with_an_error(tmp_path: Path, content: bytes) -> None:
    async with serving(tmp_path / "s"):
        answer = json.loads(await sent(tmp_path / "s", content))
        assert answer["error"]["kind"] in ("usage", "format")
        assert await asked(tmp_path / "s", "echo") == {"args": {}}


async def test_a_client_that_says_nothing_costs_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        with control.named(tmp_path / "s") as name:
            silent = await trio.open_unix_socket(name)
        async with silent:
            assert await asked(tmp_path / "s", "echo") == {"args": {}}


async def test_a_request_is_cancelled_when_its_client_goes(tmp_path: Path) -> None:
    started, ended = trio.Event(), trio.Event()

    async def wait(_args: Args, _report: Report) -> Mapping[str, object]:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(tmp_path / "s", {"wait": wait}):
        with control.named(tmp_path / "s") as name:
            stream = await trio.open_unix_socket(name)
        async with stream:
            await stream.send_all(control.encode_line({"version": 1, "verb": "wait", "with": {}}))
            await started.wait()
        with trio.fail_after(PATIENCE_S):
            await ended.wait()


async def test_a_handler_that_ends_the_server_is_still_answered(tmp_path: Path) -> None:
    scopes: list[trio.CancelScope] = []

    async def stop(_args: Args, _report: Report) -> Mapping[str, object]:
        scopes[0].cancel()
        return {"stopped": True}

    answers: list[Args] = []

    async def client() -> None:
        with trio.CancelScope(shield=True):
            answers.append(await asked(tmp_path / "s", "stop"))

    async with serving(tmp_path / "s", {"stop": stop}) as scope:
        scopes.append(scope)
        await client()
    assert answers == [{"stopped": True}]
    assert not (tmp_path / "s").exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(NotServed):
        await asked(tmp_path / "s", "echo")
    async with serving(tmp_path / "s"):
        assert await asked(tmp_path / "s", "echo") == {"args": {}}


async def test_a_home_deeper_than_a_socket_name_is_served(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    async with serving(deep / "control.sock"):
        assert await asked(deep / "control.sock", "echo") == {"args": {}}
        assert (deep / "control.sock").stat().st_mode & 0o777 == 0o600


def test_nobody_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(NotServed, match="nothing serves"):
        ask(tmp_path / "control.sock", "status", silence_s=1)
    with pytest.raises(NotServed):
        ask(tmp_path / "missing" / "control.sock", "status", silence_s=1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", Unavailable),
        (b'{"progress": {}}\n', Unavailable),
        (b"half a li", Unavailable),
        (b"nonsense\n", BadFormat),
        (b"[1]\n", BadFormat),
        (b'{"done": 3}\n', BadFormat),
        (b'{"error": {"kind": "new kind", "text": "x"}}\n', BitdustError),
        (b"x" * (ANSWER_BYTES + 1) + b"\n", Unavailable),
    ],
)
async def test_a_strange_answer_is_an_error(tmp_path: Path, answer: bytes, error: type[BitdustError]) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            try:
                await stream.send_all(answer)
            except trio.BrokenResourceError:
                pass  # the client had enough of it

    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(str(tmp_path / "s"))
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, reply, [trio.SocketListener(listening)])
        with pytest.raises(error):
            await asked(tmp_path / "s", "echo")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_error_is_made_again(kind: Kind) -> None:
    error = told_error(kind.value, "what happened")
    assert (error.kind, str(error)) == (kind, "what happened")
