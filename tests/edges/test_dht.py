"""The hash table beside trio: found through the door, cancelled, restored, and silent when it is not there."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import trio

from bitdustfs.core.dht_state import decode_state
from bitdustfs.core.record import Record
from bitdustfs.edges.dht import Dht
from bitdustfs.errors import BadFormat, Unavailable
from bitdustfs.ports import Directory
from bitdustfs.testing.directory import FakeDirectory
from tests.edges.dht_swarm import NOW_S, record
from tests.edges.dht_swarm import RULES as OF_ONE_LOOP
from tests.edges.paying import Paying

PATIENCE_S = 60
RULES = replace(OF_ONE_LOOP, tries_s=(0.05, 0.5, 5.0))  # each table has a thread, and others may have the processor


def made(number: int, state: Path | None = None, named: Sequence[str] = ()) -> Dht:
    return Dht(f"127.1.{number}.1:0", state, lambda: named, RULES, wall_s=lambda: NOW_S)


@asynccontextmanager
async def running(*tables: Dht) -> AsyncIterator[None]:
    """Run them, and let nothing wait for ever."""
    with trio.fail_after(2 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for table in tables:
                await nursery.start(table.run)
            yield
            nursery.cancel_scope.cancel()


async def find(table: Dht, wanted: Record) -> bytes | None:
    with trio.fail_after(PATIENCE_S):
        return await table.find(wanted.id)


async def test_record_is_published_and_found_through_the_door() -> None:
    one, other = made(1), made(2)
    async with running(one, other):
        assert await one.join([other.address]) == 1
        assert await one.publish(record(1).raw) == 1
        assert await find(other, record(1)) == record(1).raw
        assert await find(other, record(2)) is None


async def test_node_begins_from_those_that_it_is_told_of() -> None:
    first = made(1)
    async with running(first):
        second = made(2, named=["nobody.invalid:1", "no address", first.address])
        async with running(second):
            with trio.fail_after(PATIENCE_S):
                while not (first.known and second.known):
                    await trio.sleep(0.01)


async def test_all_that_moves_takes_from_the_limits() -> None:
    one_pays, other_pays = Paying(), Paying()
    one = Dht("127.1.1.1:0", None, rules=RULES, wall_s=lambda: NOW_S, pacer=one_pays)
    other = Dht("127.1.2.1:0", None, rules=RULES, wall_s=lambda: NOW_S, pacer=other_pays)
    async with running(one, other):
        assert await one.join([other.address]) == 1
        assert one_pays.up_bytes == one_pays.down_bytes == 0  # nothing is limited
        one_pays.limit(up=1 << 20, down=inf)
        other_pays.limit(up=inf, down=1 << 20)
        assert await one.publish(record(1).raw) == 1
        assert await find(one, record(2)) is None
        size = len(record(1).raw)  # not to the byte: what was under way when the limits came one side pays alone
        while not (one_pays.up_bytes > size and other_pays.down_bytes > size):
            await trio.sleep(0.01)
        while not (one_pays.down_bytes > 0 and other_pays.up_bytes > 0):
            await trio.sleep(0.01)


async def test_table_that_does_not_run_is_silent() -> None:
    table = made(1)
    assert await find(table, record(1)) is None
    assert await table.publish(record(1).raw) == 0
    assert await table.join(["127.1.2.1:9"]) == 0
    assert (table.address, table.known, dict(table.counts)) == ("", 0, {})
    table.pin([record(1).id])
    async with running(table):
        assert table.address.startswith("127.1.1.1:")
    assert await find(table, record(1)) is None


async def test_what_is_no_record_is_not_published() -> None:
    table = made(1)
    async with running(table):
        with pytest.raises(BadFormat):
            await table.publish(b"no record")


async def test_who_waits_for_a_lookup_can_be_cancelled_and_the_lookup_ends_with_him() -> None:
    one = Dht("127.1.1.1:0", None, rules=replace(RULES, tries_s=(1e6,)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.1.9.1", 0))
        async with running(one):
            assert one._node is not None
            waiting = one._node.protocol._waiting
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.join, [f"127.1.9.1:{silent.getsockname()[1]}"])
                    while not waiting:
                        await trio.sleep(0.001)
                    nursery.cancel_scope.cancel()
                while waiting:
                    await trio.sleep(0.001)
            assert await find(one, record(1)) is None


async def test_node_that_was_stopped_comes_back_as_the_same_and_knows_whom_it_knew(tmp_path: Path) -> None:
    state = tmp_path / "dht"
    stays, goes = made(1), made(2, state)
    async with running(stays):
        async with running(goes):
            goes.pin([record(1).id])
            await goes.join([stays.address])
            await goes.publish(record(1).raw)
            before = goes._node.node.id if goes._node is not None else b""
        kept = decode_state(state.read_bytes())
        assert [each.address for each in kept.contacts] == [stays.address]
        assert kept.records == (record(1),)
        assert state.stat().st_mode & 0o777 == 0o600
        back = made(2, state)
        async with running(back):
            with trio.fail_after(PATIENCE_S):
                while not back.known:
                    await trio.sleep(0.01)
            assert back._node is not None
            assert back._node.node.id == before
            assert back._node.kept.get(record(1).id, NOW_S) == record(1)


@pytest.mark.parametrize("content", [b"", b"no state", b"bddht\n\0\0\2" + bytes(100), b"\x80\x04." * 100])
async def test_damaged_state_is_put_aside_with_a_line_in_the_log(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "dht"
    state.write_bytes(content)
    async with running(made(1, state)):
        pass
    assert [each.levelno for each in caplog.records if str(state) in each.getMessage()] == [logging.WARNING]
    assert decode_state(state.read_bytes()).contacts == ()


async def test_port_that_is_taken_is_said() -> None:
    one = made(1)
    async with running(one):
        two = Dht(one.address, None, rules=RULES)
        with pytest.raises(Unavailable, match=one.address):
            await two.run()


_FLOOD = """
import os, socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.bind(("127.1.8.1", 0))
to, count = ("127.1.1.1", int(sys.argv[1])), int(sys.argv[2])
kinds = [b"\\x00" + bytes(20) + b"\\x91" * 2000, os.urandom(1000), b"bdh\\x01\\x01" + os.urandom(16) + bytes(27), b""]
for each in range(count):
    out.sendto(kinds[each % 4], to)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_trio_goes_on_beside_a_table_that_is_flooded(count: int) -> None:
    """F53: the loop of the mount."""
    table = made(1)
    steps = 0
    async with running(table):
        port = table.address.rpartition(":")[2]
        flood = subprocess.Popen([sys.executable, "-c", _FLOOD, port, str(count)])
        try:
            with trio.fail_after(PATIENCE_S):
                while flood.poll() is None or steps < 500:
                    await trio.sleep(0.001)
                    steps += 1
        finally:
            flood.kill()
            flood.wait()
        assert flood.returncode == 0
        assert sum(table.counts.values()) > 0
        assert await find(table, record(1)) is None
    assert steps >= 500


# --- what every directory does --------------------------------------------------------------------------------------


@asynccontextmanager
async def real_directory() -> AsyncIterator[Directory]:
    one, other = made(1), made(2)
    async with running(one, other):
        await one.join([other.address])
        yield one


@asynccontextmanager
async def fake_directory() -> AsyncIterator[Directory]:
    yield FakeDirectory(lambda: NOW_S)


@pytest.mark.parametrize("place", [real_directory, fake_directory])
async def test_directory_shows_the_newest_valid_record(
    place: Callable[[], AbstractAsyncContextManager[Directory]],
) -> None:
    async with place() as directory:
        assert await directory.find(record(1).id) is None
        assert await directory.publish(record(1, 2).raw) == 1
        assert await directory.publish(record(1, 1).raw) == 0
        assert await directory.find(record(1).id) == record(1, 2).raw
        assert await directory.publish(record(1, 3, expiry_s=NOW_S).raw) == 0
        assert await directory.publish(record(1, 4).raw, ["127.1.1.9:9"]) == 1
        assert await directory.find(record(1).id) == record(1, 4).raw
        assert await directory.find(record(2).id) is None
        directory.pin([record(1).id])
        with pytest.raises(BadFormat):
            await directory.publish(b"")
