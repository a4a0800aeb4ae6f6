"""A practice swarm whose parts got into trouble."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.mount.practice import Practice, wait_until
from tests.test_manual import fields_of, status_fields

pytestmark = pytest.mark.slow


def test_a_supplier_whose_port_was_taken_gets_another_and_is_hired_there(tmp_path: Path) -> None:
    with Practice(tmp_path, suppliers=2, code="1/2") as swarm:
        (swarm.path / "file").write_bytes(b"kept")
        swarm.sync()
        told = swarm.status()
        assert {field for field in status_fields() if field.startswith("suppliers.")} <= fields_of(told)
        assert fields_of(told) <= set(status_fields())
        numbers = {s["label"]: s["node"] for s in told["suppliers"]}
        plan = json.loads((swarm.home / "demo" / "swarm.json").read_bytes())
        place = plan["members"][0]["place"].partition("@")[2]
        swarm.run("demo", "kill", "1")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", int(place.rpartition(":")[2])))
            taken.listen()
            swarm.run("demo", "revive", "1")
            found = swarm.status()["suppliers"]
            assert {s["label"]: s["node"] for s in found} == numbers
            assert place not in [s["address"] for s in found]
            wait_until("supplier1 answers", lambda: all(s["answers"] for s in swarm.status()["suppliers"]))
            swarm.kill_supplier(2)
            swarm.forget()
            assert (swarm.path / "file").read_bytes() == b"kept"


def test_down_ends_everything_and_up_brings_it_back(tmp_path: Path) -> None:
    with Practice(tmp_path, suppliers=1, code="1/1", apart=True) as swarm:
        (swarm.path / "file").write_bytes(b"kept")
        swarm.run("demo", "down")
        assert not os.path.ismount(swarm.path)
        assert swarm.supplier_pids() == []
        swarm.up()
        assert (swarm.path / "file").read_bytes() == b"kept"
        swarm.run("demo", "down", "--purge")
        assert not os.path.ismount(swarm.path)
        assert swarm.supplier_pids() == []
        assert not swarm.home.exists()


def test_purge_ends_a_running_swarm_whose_plan_is_damaged(tmp_path: Path) -> None:
    with Practice(tmp_path, suppliers=1, code="1/1") as swarm:
        (swarm.home / "demo" / "swarm.json").write_text("{")
        swarm.run("demo", "down", "--purge")
        assert not os.path.ismount(swarm.path)
        assert not swarm.home.exists()
