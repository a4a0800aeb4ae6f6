"""What `invite` says of whether this machine can be dialled."""

from __future__ import annotations

import pytest

from bitdustfs.cli.reaching import reach_lines, reached_from_elsewhere
from bitdustfs.core.report import ReachReport

HOME, WORLD = "192.168.7.2:4878", "203.0.114.7:4878"


def told(name: str, reached: str, tried: str = "") -> ReachReport:
    return ReachReport(owner="00", name=name, reached=reached, tried=tried or reached)


@pytest.mark.parametrize(
    ("address", "tried", "said"),
    [
        (WORLD, [told("clara", WORLD)], "clara dialled this machine just now at 203.0.114.7:4878: others can too."),
        (
            HOME,
            [told("clara", HOME)],
            "clara dialled this machine just now at 192.168.7.2:4878, in your network",
        ),
        (
            HOME,
            [told("clara", "", WORLD)],
            "Nobody could dial this machine: clara has just tried, at 203.0.114.7:4878.",
        ),
        (
            HOME,
            [ReachReport(owner="00", name="boris", reached="", tried=""), told("clara", "", HOME)],  # he had no time
            "Nobody could dial this machine: clara has just tried",
        ),
        (WORLD, [told("", "", WORLD)], "Nobody could dial this machine: a friend has just tried"),
        (WORLD, [told("clara", "", WORLD), told("dora", WORLD)], "dora dialled this machine just now"),
        (HOME, [], "192.168.7.2:4878 can be dialled from your own network; from elsewhere it can be dialled only if"),
        (WORLD, [], "203.0.114.7:4878 can be dialled from everywhere, unless a firewall"),
        ("127.0.0.1:4878", [], "can be dialled from this machine only"),
    ],
)
def test_what_partners_found_out_comes_before_what_the_digits_tell(
    address: str, tried: list[ReachReport], said: str
) -> None:
    assert said in " ".join(reach_lines(address, tried))


def test_address_that_means_us_everywhere_is_taken_if_somebody_was_there() -> None:
    assert reached_from_elsewhere([told("a", HOME), told("b", "", WORLD), told("c", WORLD)]) == WORLD
    assert reached_from_elsewhere([told("a", HOME)]) == ""


def test_address_that_one_friend_alone_names_is_not_taken() -> None:
    told_by = [told("liar", "198.51.101.9:4878"), told("b", WORLD), told("c", WORLD)]
    assert reached_from_elsewhere(told_by) == WORLD
