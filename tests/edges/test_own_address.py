"""Which of its addresses a machine puts into an invitation."""

from __future__ import annotations

import pytest

from bitdustfs.edges.own_address import dialable, shorter


@pytest.mark.parametrize(
    ("numbers", "chosen"),
    [
        (["8.8.4.4", "2a00:1450:4001::5"], "8.8.4.4"),
        (["192.168.1.5", "fd00::9"], "192.168.1.5"),
        (["192.168.1.5", "2a00:1450:4001::5"], "2a00:1450:4001::5"),  # the only one that is good everywhere
        (["2a00:1450:4001::5"], "2a00:1450:4001::5"),
        (["fd00::9"], "fd00::9"),
        (["127.0.0.1", "::1"], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_ipv4_address_is_chosen_unless_only_ipv6_is_good_everywhere(numbers: list[str], chosen: str) -> None:
    assert shorter(numbers) == chosen


def test_address_that_was_named_is_taken_as_it_is() -> None:
    assert [dialable(host) for host in ("192.0.2.7", "2001:db8::7")] == ["192.0.2.7", "2001:db8::7"]


def test_all_addresses_are_one_that_can_be_written_into_a_line() -> None:
    assert all(dialable(host) not in ("0.0.0.0", "::") for host in ("0.0.0.0", "::"))
