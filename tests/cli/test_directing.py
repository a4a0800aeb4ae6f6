"""The hash table of a process: what happens where it cannot begin."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from bitdustfs.cli import directing
from bitdustfs.cli.directing import Directing
from bitdustfs.engine.pacer import Pacer
from bitdustfs.model import RecordId

PATIENCE_S = 60


async def test_nobody_waits_for_a_table_whose_port_is_taken_and_it_begins_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directing, "AGAIN_S", 0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.3.7.1", 0))
        address = "{}:{}".format(*taken.getsockname())
        table = Directing(
            address,
            tmp_path / "dht",
            bootstrap=lambda: ["127.3.7.2:9"],
            friends=tuple,
            pacer=Pacer(),
            own=lambda: b"",
            partners=tuple,
        )
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(table.run)
                while caplog.text.count("It is tried again, and nothing else waits for it") < 2:
                    await trio.sleep(0.01)
                assert await table.find(RecordId(bytes(32))) is None
                assert await table.join(["127.3.7.2:9"]) == 0
                taken.close()
                while table._table is None or table._table.address != address:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
