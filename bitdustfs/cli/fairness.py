"""Fairness: what was given to friends and taken from them, in words for a person."""

from __future__ import annotations

from collections.abc import Sequence

from bitdustfs.cli.common import moment
from bitdustfs.core.report import BalanceReport, FairnessReport
from bitdustfs.core.units import format_gb_hours


def balance_lines(told: BalanceReport, name: str, *, gives: bool, takes: bool) -> Sequence[str]:
    """Write for a person what was given to a friend and taken from him.

    Args:
        gives, takes: whether something is to be given, or taken: else a line is only there if something was.
    """
    given, taken = format_gb_hours(told["given_byte_hours"]), format_gb_hours(told["taken_byte_hours"])
    shown = []
    if told["given_until_s"]:
        since = f"since {moment(told['given_since_s'])}"
        shown.append(f"given    {given} {since}, by {name}'s receipt of {moment(told['given_until_s'])}")
    elif gives or told["given_counted"]:
        counted = f"; counted here: {format_gb_hours(told['given_counted'])}" if told["given_counted"] else ""
        shown.append(f"given    {given}: there is no receipt of {name} yet{counted}")
    if takes or told["taken_since_s"]:
        since = f" since {moment(told['taken_since_s'])}" if told["taken_since_s"] else ""
        sent = f", receipt of {moment(told['taken_until_s'])} sent" if told["taken_until_s"] else ""
        shown.append(f"taken    {taken}{since}, as far as audits have shown{sent}")
    if told["given_differs"]:
        counted = format_gb_hours(told["given_counted"])
        shown.append(f"differs  {counted} were counted here that {name} was given, and {name} signed {given}")
    if told["taken_differs"]:
        counted = format_gb_hours(told["taken_counted"])
        shown.append(f"differs  {name} counted {counted} that you took, and audits here have shown {taken}")
    return shown


def fairness_lines(friends: Sequence[FairnessReport]) -> Sequence[str]:
    """Write a line for each friend with whom there is anything to say, for `status`."""
    return [_line(friend) for friend in friends if _has_any(friend["balance"])]


def _line(friend: FairnessReport) -> str:
    told = friend["balance"]
    given, taken = format_gb_hours(told["given_byte_hours"]), format_gb_hours(told["taken_byte_hours"])
    disputed = "; the two counts differ: see `bitdustfs contracts`" if _is_disputed(told) else ""
    return f"  fairness   {friend['name']}: given {given}, taken {taken}{disputed}"


def _has_any(told: BalanceReport) -> bool:
    return bool(told["given_byte_hours"] or told["taken_byte_hours"] or _is_disputed(told))


def _is_disputed(told: BalanceReport) -> bool:
    return told["given_differs"] or told["taken_differs"]
