"""Two friends with one process each: both mount, and each keeps what the other stores."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from typing import cast

import pytest

from bitdustfs.core.ledger import HOUR_MS, Account, encode_account
from bitdustfs.edges.config import store
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.control import ask
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from tests.children import bitdustfs
from tests.mount.practice import bytes_in
from tests.mount.support import Mount

pytestmark = pytest.mark.slow

CONTENT = random.Random(1).randbytes(1 << 20)  # nothing in it is twice


class Friend(Mount):
    """A mount that gives. `settings` are those of its configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, str] = {}

    def __enter__(self) -> Friend:  # started by the test, when it knows where the other one is
        self._prepare()
        self.identity = identity_of(read_keys(Home(self.state)))
        return self

    def give(self, **settings: str) -> str:
        """Mount, and return the line that says where it can be reached; "" if nowhere."""
        for key, value in settings.items():
            store(Home(self.state).config, key.replace("__", "."), value)
        self.start()
        while "give" in "".join(settings):
            if (said := self.said()).startswith("Friends reach") or not said:
                return said.rpartition(" ")[2].rstrip(".")
            if "give__listen" not in settings and said.startswith("Keeps up to"):
                return ""
        return ""

    def run(self, *words: str) -> str:
        done = bitdustfs("--home", self.state, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hire(self, place: str) -> None:
        """Hire one that is allowed to be dialled, or dials us: then when it has."""
        for _ in range(100):
            done = bitdustfs("--home", self.state, "hire", place, "--size", "1G")
            if done.returncode == 0:
                return
            time.sleep(0.2)
        raise AssertionError(done.stderr)


def counted_before(customer: Friend, supplier: Friend) -> None:
    """Let a page of the ledger lie in a home, as an earlier process left it."""
    page = Account(since_s=1_790_000_000, byte_ms=5 * 10**9 * HOUR_MS, held_bytes=10**9)
    disk = DiskContracts(Home(customer.state).contracts)
    disk.save_account(supplier.identity.owner, encode_account(page))


def assert_ledger_is_told(customer: Friend, supplier: Friend) -> None:
    """The supplier has got a receipt for what was counted, and both say so."""

    def balance(friend: Friend) -> Mapping[str, int]:
        (told,) = ask(Home(friend.state).control, "contracts", {}, silence_s=60)["contracts"]
        assert told["used_here_bytes"] > len(CONTENT) and told["used_there_bytes"] > len(CONTENT)
        return cast(Mapping[str, int], told["balance"])

    give_up_at = time.monotonic() + 120
    while not (balance(supplier)["given_byte_hours"] and balance(customer)["taken_until_s"]):
        assert time.monotonic() < give_up_at
        time.sleep(0.5)
    told = balance(supplier)
    assert (told["given_byte_hours"], told["taken_byte_hours"], told["given_differs"]) == (5 * 10**9, 0, False)
    assert "  given    5.00 GB-hours since 2026-09-2" in supplier.run("contracts")
    assert "  taken    5.00 GB-hours since 2026-09-2" in customer.run("contracts")
    assert ": given 0 GB-hours, taken 5.00 GB-hours\n" in customer.run("status", str(customer.path))


def test_friend_behind_a_firewall_gives_and_takes_in_one_process() -> None:
    with Friend() as anna, Friend() as boris:
        counted_before(anna, boris)
        allow = f"allow.{boris.identity.owner.hex()}"
        reach = anna.give(give__listen="127.0.0.1:0", give__size="2G", **{allow: "1G"})
        assert reach.startswith(anna.identity.node.hex() + "@127.0.0.1:")
        where = reach.partition("@")[2]
        allow, dial = f"allow.{anna.identity.owner.hex()}", f"dial.{anna.identity.node.hex()}"
        boris.give(give__size="2G", **{allow: "1G", dial: where})
        anna.hire(boris.identity.node.hex())  # which cannot be dialled
        boris.hire(reach)
        for friend, other in ((anna, boris), (boris, anna)):
            (friend.path / "letter").write_bytes(CONTENT)
            friend.run("sync", str(friend.path))
            assert json.loads(friend.run("status", "--json", str(friend.path)))["state"] == "safe"
            assert bytes_in(other.state / "shelf") > len(CONTENT)
        assert_ledger_is_told(anna, boris)
        boris.run("cache", "drop", str(boris.path))
        anna.run("cache", "drop", str(anna.path))
        assert (anna.path / "letter").read_bytes() == CONTENT
        assert (boris.path / "letter").read_bytes() == CONTENT
