"""`contracts`: what is told of them, changed in them, and said before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import trio

from bitdustfs.cli.contracting import contract_verbs
from bitdustfs.cli.contracts import consequences, ending, lines
from bitdustfs.cli.fairness import fairness_lines
from bitdustfs.cli.giving import Giving
from bitdustfs.core.grace import NOTICE_S
from bitdustfs.core.report import BalanceReport, ContractReport, ContractTerms, FairnessReport
from bitdustfs.edges.config import store
from bitdustfs.edges.names_disk import save_name
from bitdustfs.errors import NotFound, PeerGone
from tests.cli.test_giving import ANNA, BORIS, Place, customer_side

GIB, MIB = 1 << 30, 1 << 20
NOW_S = 1_790_000_000


def balance(**changes: object) -> BalanceReport:
    made: dict[str, object] = {
        "given_byte_hours": 0,
        "given_since_s": 0,
        "given_until_s": 0,
        "given_bytes": 0,
        "given_counted": 0,
        "given_differs": False,
        "taken_byte_hours": 0,
        "taken_since_s": 0,
        "taken_bytes": 0,
        "taken_counted": 0,
        "taken_until_s": 0,
        "taken_differs": False,
    }
    return cast(BalanceReport, made | changes)


def told(**changes: object) -> ContractReport:
    terms = ContractTerms(serial=2, offered_bytes=2 * GIB, needed_bytes=GIB, since_s=NOW_S, until_s=0)
    made: dict[str, object] = {
        "name": "anna",
        "owner": "ab" * 32,
        "connected": True,
        "used_here_bytes": GIB,
        "used_there_bytes": 512 * MIB,
        "agreed_s": NOW_S,
        "now": terms,
        "coming": None,
        "notice": None,
        "balance": balance(),
        "grace_until_s": 0,
    }
    return cast(ContractReport, made | changes)


def test_contract_is_told_with_what_is_used_and_what_comes() -> None:
    coming = ContractTerms(serial=3, offered_bytes=MIB, needed_bytes=GIB, since_s=NOW_S + NOTICE_S, until_s=0)
    shown = "\n".join(lines(told(coming=coming, notice=coming, grace_until_s=NOW_S)))
    assert "connected" in shown and "open-ended" in shown
    assert "offered  2 GiB, 1 GiB used" in shown.replace(".0 ", " ").replace(".00 ", " ")
    assert "(agreed)" in shown and "not signed by the friend yet" in shown and "yields to space needed" in shown


def test_what_was_given_and_taken_is_told_in_gb_hours() -> None:
    counted = balance(
        given_byte_hours=12_345_000_000, given_since_s=NOW_S, given_until_s=NOW_S, taken_byte_hours=250_000_000
    )
    shown = "\n".join(lines(told(balance=counted)))
    assert "given    12.3 GB-hours since" in shown and "by anna's receipt of" in shown
    assert "taken    0.250 GB-hours, as far as audits have shown" in shown and "differs" not in shown
    (line,) = fairness_lines([FairnessReport(name="anna", owner="ab" * 32, balance=counted)])
    assert line == "  fairness   anna: given 12.3 GB-hours, taken 0.250 GB-hours"


def test_what_is_neither_given_nor_taken_has_no_line() -> None:
    nothing = ContractTerms(serial=2, offered_bytes=0, needed_bytes=GIB, since_s=NOW_S, until_s=0)
    shown = "\n".join(lines(told(now=nothing)))
    assert "  given" not in shown and "  taken    0 GB-hours" in shown
    only_given = ContractTerms(serial=2, offered_bytes=GIB, needed_bytes=0, since_s=NOW_S, until_s=0)
    shown = "\n".join(lines(told(now=only_given, balance=balance(given_counted=10**9))))
    assert "  given    0 GB-hours: there is no receipt of anna yet; counted here: 1.00 GB-hours" in shown
    assert "  taken" not in shown
    assert not fairness_lines([FairnessReport(name="anna", owner="ab" * 32, balance=balance())])


def test_counts_that_differ_are_shown_on_both_sides() -> None:
    mine = balance(given_byte_hours=10**9, given_until_s=NOW_S, given_counted=9 * 10**9, given_differs=True)
    assert "9.00 GB-hours were counted here that anna was given, and anna signed 1.00" in "\n".join(
        lines(told(balance=mine))
    )
    his = balance(taken_byte_hours=10**9, taken_since_s=NOW_S, taken_counted=9 * 10**9, taken_differs=True)
    assert "anna counted 9.00 GB-hours that you took" in "\n".join(lines(told(balance=his)))
    (line,) = fairness_lines([FairnessReport(name="anna", owner="ab" * 32, balance=his)])
    assert "the two counts differ" in line


def test_what_a_change_does_is_said_before() -> None:
    (less,) = consequences(told(), offer=MIB, need=None, now_s=NOW_S)
    assert "Until" in less and "what is here stays" in less
    (enough,) = consequences(told(), offer=3 * GIB, need=None, now_s=NOW_S)
    assert "at once" in enough
    (fewer,) = consequences(told(), offer=None, need=MIB, now_s=NOW_S)
    assert "it stays" in fewer
    end = " ".join(ending(told(), now_s=NOW_S))
    assert "30 days after the end" in end and "brought to others" in end


async def ask(given: Giving, home: Path, verb: str, **args: object) -> Mapping[str, object]:
    async def nothing(_step: Mapping[str, object]) -> None:
        return

    return await contract_verbs(given, home)[verb](args, nothing)


@pytest.mark.slow
async def test_contract_is_listed_changed_ended_and_renewed_by_name(tmp_path: Path) -> None:
    boris = Place.made(tmp_path / "boris", BORIS, give__listen="127.0.0.1:0", give__size="1G")
    store(boris.home.config, f"allow.{ANNA.owner.hex()}", "5M")
    anna = Place.made(tmp_path / "anna", ANNA)
    with trio.fail_after(60):
        async with anna.serving() as at_anna, trio.open_nursery() as nursery:
            side = customer_side(at_anna, nursery)
            async with boris.serving() as at_boris:
                await side.hire(at_boris.place.partition("@")[2], BORIS.node, 2 * MIB)
                save_name(boris.home.contracts, ANNA.owner, "Anna")
                (kept,) = cast(
                    list[ContractReport], (await ask(at_boris, boris.home.contracts, "contracts"))["contracts"]
                )
                assert (kept["name"], kept["now"]["offered_bytes"], kept["now"]["until_s"]) == ("Anna", 2 * MIB, 0)
                with pytest.raises(NotFound):
                    await ask(at_boris, boris.home.contracts, "contract-change", name="Carla", offer=MIB, need=None)
                with pytest.raises(PeerGone):  # her connection was for hiring only
                    await ask(
                        at_boris, boris.home.contracts, "contract-change", name="Anna", offer=4 * MIB, need=None
                    )
                ended = await ask(at_boris, boris.home.contracts, "contract-change", name="Anna", end=True)
                assert ended["is_agreed"] is False and ended["notice"] is not None
            nursery.cancel_scope.cancel()
    async with boris.serving() as again:
        (kept,) = cast(list[ContractReport], (await ask(again, boris.home.contracts, "contracts"))["contracts"])
        assert kept["notice"] is not None and kept["notice"]["until_s"] > kept["now"]["since_s"]
        renewed = await ask(again, boris.home.contracts, "contract-change", name="Anna", renew=True)
        assert renewed["notice"] is None and renewed["is_agreed"] is False
    async with boris.serving() as later:
        (kept,) = cast(list[ContractReport], (await ask(later, boris.home.contracts, "contracts"))["contracts"])
        assert kept["notice"] is None and kept["now"]["until_s"] == 0
