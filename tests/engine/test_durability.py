"""How often data is lost under the policy of core, against the model on paper. Run with -s to see the numbers."""

from __future__ import annotations

import math

import pytest

from bitdustfs.core.grace import Patience
from bitdustfs.model import Code
from bitdustfs.testing.durability import Outcome, Setting, days, interval, live_many, predicted_loss

WAIT_DAYS = 3.0
SETTINGS = {  # lifetimes so short that a volume is lost now and then
    Code(2, 6): Setting(6, days(12), Patience.of(days(WAIT_DAYS)), 0.0, days(60)),
    Code(4, 12): Setting(12, days(8), Patience.of(days(WAIT_DAYS)), 0.0, days(60)),
}


def check(code: Code, lives: int) -> None:
    """As many are lost as the model says, within its interval of 95 in 100."""
    setting = SETTINGS[code]
    assert setting.code == code
    chance = predicted_loss(
        code, lifetime_s=setting.lifetime_s, repair_s=setting.patience.else_s, span_s=setting.span_s
    )
    found, (low, high) = live_many(setting, lives=lives, seed=46), interval(chance, lives)
    print(f"{code}: {found.lost} of {lives} lost ({found.share:.1%}); model {chance:.1%}, {low:.1%} … {high:.1%}")
    assert 0.01 <= chance <= 0.2
    assert low <= found.share <= high


@pytest.mark.slow
@pytest.mark.parametrize("code", SETTINGS, ids=str)
def test_losses_are_as_many_as_the_model_says(code: Code) -> None:
    check(code, 200)


@pytest.mark.long
@pytest.mark.parametrize("code", SETTINGS, ids=str)
def test_losses_of_many_lives_are_as_many_as_the_model_says(code: Code) -> None:
    check(code, 3000)


@pytest.mark.slow
def test_less_patience_where_little_is_left_loses_less() -> None:
    setting = SETTINGS[Code(2, 6)]
    hurried = Patience(at_none_s=days(WAIT_DAYS / 12), at_one_s=days(WAIT_DAYS / 3), else_s=days(WAIT_DAYS))
    by_margin = Setting(6, setting.lifetime_s, hurried, 0.0, setting.span_s)
    found: list[Outcome] = [live_many(each, lives=80, seed=7) for each in (setting, by_margin)]
    print(f"always {WAIT_DAYS} days: {found[0].share:.1%} lost; by margin: {found[1].share:.1%}")
    assert found[1].lost * 4 < found[0].lost


def test_prediction_agrees_with_what_can_be_computed_by_hand() -> None:
    """Code 1/2: the mean time to the loss is (3λ + μ) / 2λ²."""
    going, back = 1 / days(10), 1 / days(1)
    by_hand = (3 * going + back) / (2 * going * going)
    chance = predicted_loss(Code(1, 2), lifetime_s=days(10), repair_s=days(1), span_s=days(30))
    assert math.isclose(chance, 1 - math.exp(-days(30) / by_hand))
