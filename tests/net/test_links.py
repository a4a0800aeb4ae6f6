"""A volume whose suppliers are on four other hosts: links that are cut, and a customer whom nobody can dial."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.net.internet import Host, Internet, wait_until

CONTENT = os.urandom(3 << 20)
LABELS = {"s1", "s2", "s3", "s4"}


@dataclass
class Five:
    """Four suppliers, and their customer, who is mounted."""

    internet: Internet
    suppliers: list[Host]
    customer: Host

    @property
    def letter(self) -> Path:
        return self.customer.seen / "letter"

    def wait_until_whole(self) -> None:
        wait_until("all suppliers answer", lambda: self.customer.online() == LABELS)


@pytest.fixture(scope="module")
def five(internet: Internet) -> Iterator[Five]:
    suppliers, customer = [internet.host() for _ in LABELS], internet.host("customer")
    customer.drop_inbound()
    owner = customer.init()
    for supplier in suppliers:
        supplier.init()
    customer.run("hire", "--size", "100M", *(supplier.serve(owner) for supplier in suppliers))
    customer.mount()
    running = Five(internet, suppliers, customer)
    running.wait_until_whole()
    yield running


def test_customer_behind_a_firewall_writes_to_four_hosts_and_reads_back(five: Five) -> None:
    five.letter.write_bytes(CONTENT)
    assert five.customer.sync() == "safe"
    five.customer.ask("cache-drop")
    assert five.letter.read_bytes() == CONTENT


def test_reads_go_on_while_a_link_is_cut_and_it_is_back_by_itself(five: Five) -> None:
    five.letter.write_bytes(CONTENT)
    assert five.customer.sync() == "safe"
    five.internet.cut(five.customer, five.suppliers[0])
    five.customer.ask("cache-drop")
    assert five.letter.read_bytes() == CONTENT
    wait_until("the one behind the cut is missed", lambda: five.customer.online() == LABELS - {"s1"})
    five.internet.heal(five.customer, five.suppliers[0])
    five.wait_until_whole()
