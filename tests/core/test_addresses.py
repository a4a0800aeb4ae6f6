"""Where a node says that it can be dialled: by its listener, its interfaces, the person, and what others see."""

from __future__ import annotations

import pytest

from bitdustfs.core.addresses import announced, seen_most

NUMBERS = ["127.0.0.1", "::1", "192.168.1.5", "fd00::9", "8.8.4.4", "2a00:1450:4001::5", "fe80::1"]
BOTH = ["[::]:7000", "0.0.0.0:7000"]


def test_all_addresses_of_both_families_are_told_those_that_are_good_everywhere_first() -> None:
    told = announced(BOTH, NUMBERS)
    assert told == ("8.8.4.4:7000", "[2a00:1450:4001::5]:7000", "192.168.1.5:7000", "[fd00::9]:7000")


def test_what_the_person_wrote_comes_first_and_what_others_see_last_and_each_once() -> None:
    told = announced(["0.0.0.0:7000"], ["192.168.1.5"], configured=["9.9.9.9:1"], seen=["8.8.4.4:7000", "9.9.9.9:1"])
    assert told == ("9.9.9.9:1", "192.168.1.5:7000", "8.8.4.4:7000")


@pytest.mark.parametrize(
    ("listening", "told"),
    [
        ([], ()),
        (["0.0.0.0:7000"], ("8.8.4.4:7000", "192.168.1.5:7000")),
        (["192.168.1.5:7000"], ("192.168.1.5:7000",)),
        (["127.0.0.1:7000"], ("127.0.0.1:7000",)),
    ],
)
def test_who_listens_on_one_address_tells_that_one(listening: list[str], told: tuple[str, ...]) -> None:
    assert announced(listening, NUMBERS) == told


def test_what_most_others_see_counts_with_one_vote_each_and_our_own_port() -> None:
    liar = [f"198.51.100.{number}:9" for number in range(9)]
    reports = [["8.8.4.4:0", "[2a00:1450:4001::5]:0"], ["8.8.4.4:7000"], liar]
    assert set(seen_most(reports, BOTH)) == {"8.8.4.4:7000", "[2a00:1450:4001::5]:7000"}
    assert seen_most(reports, ["0.0.0.0:7000"]) == ("8.8.4.4:7000",)
    assert seen_most([["127.0.0.1:0", "[fe80::1]:0", "nonsense"]], BOTH) == ()
