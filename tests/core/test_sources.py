"""Budgets by network: who floods spends his own, and what is remembered of networks is bounded."""

from __future__ import annotations

import pytest

from bitdustfs.core.sources import Budget, SourceBudgets, prefix_of


@pytest.mark.parametrize(
    "host,prefix",
    [
        ("8.8.4.4", "8.8.4.0"),
        ("2a00:1450:4001:81b::200e", "2a00:1450:4001::"),
        ("192.168.1.7", "192.168.1.7"),
        ("127.0.0.3", "127.0.0.3"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_address_counts_for_its_network_but_alone_in_a_private_one(host: str, prefix: str) -> None:
    assert prefix_of(host) == prefix


def test_private_addresses_count_for_their_network_if_it_is_wished() -> None:
    assert prefix_of("127.0.0.3", keeps_private_apart=False) == "127.0.0.0"


def test_budget_gives_a_burst_and_then_so_many_a_second() -> None:
    budget = Budget(per_s=2, burst=3)
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.take(0.5), budget.take(0.5), budget.take(100.0)] == [True, False, True]
    assert [budget.take(100.0) for _ in range(3)] == [True, True, False]


def test_budget_of_one_network_is_not_spent_by_another() -> None:
    budgets = SourceBudgets(per_s=1, burst=2)
    assert [budgets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert budgets.take("b", 0.0)


def test_number_of_networks_that_are_remembered_is_bounded() -> None:
    budgets = SourceBudgets(per_s=1, burst=2, most=10)
    taken = [budgets.take(f"{n}", 0.0) for n in range(1000)]
    assert (sum(taken), len(budgets)) == (10, 10)
    assert budgets.take("later", 1.5), "those that were quiet are forgotten"
    assert len(budgets) == 10


def test_network_that_is_still_in_debt_is_not_forgotten() -> None:
    budgets = SourceBudgets(per_s=1, burst=2, most=1)
    assert [budgets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert not budgets.take("b", 0.5)
    assert not budgets.take("a", 0.5)
