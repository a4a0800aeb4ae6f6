"""Whether this machine can be dialled: the process that serves lets partners try, `invite` says what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bitdustfs.core.reach import Scope, scope_of
from bitdustfs.core.report import ReachReport
from bitdustfs.edges.control import Args, NotServed, ask
from bitdustfs.edges.home import Home
from bitdustfs.errors import BitdustError

if TYPE_CHECKING:
    from bitdustfs.cli.giving import Giving
    from bitdustfs.edges.control_server import Handler, Report

_SILENCE_S = 15  # more than partners get to try


def reach_verbs(given: Giving, contracts: Path) -> Mapping[str, Handler]:
    """The request that a process answers for `bitdustfs invite`.

    Args:
        contracts: the directory that has the names of friends too.
    """
    from bitdustfs.edges.names_disk import names

    async def reach(_args: Args, _report: Report) -> Mapping[str, object]:
        known = names(contracts)
        tried = [
            ReachReport(
                owner=each.owner.hex(), name=known.get(each.owner, ""), reached=each.reached, tried=each.tried
            )
            for each in await given.reaching.ask()
        ]
        return {"tried": tried}

    return {"reach": reach}


def tried_now(home: Home) -> Sequence[ReachReport]:
    """Let partners try to dial the process that serves this home. None: nobody is connected, or it does not serve."""
    try:
        return cast("Sequence[ReachReport]", ask(home.control, "reach", {}, silence_s=_SILENCE_S)["tried"])
    except (NotServed, BitdustError):
        return ()  # it is said from the digits of the address then


def reached_from_elsewhere(tried: Sequence[ReachReport]) -> str:
    """ADDR:PORT that means this machine everywhere, and where somebody could dial it; "": none is known.

    What most of them say, for one may lie: then who is invited would dial another machine, in vain.
    """
    places = Counter(each["reached"] for each in tried if scope_of(each["reached"]) is Scope.WORLD)
    return next((place for place, _count in places.most_common(1)), "")  # the first of those that as many say


def reach_lines(address: str, tried: Sequence[ReachReport] = ()) -> list[str]:
    """Whether an address of this machine can be dialled from outside, as far as is known, and what to do if not."""
    host, _, port = address.rpartition(":")
    for each in tried:
        if each["reached"] and each["reached"].rpartition(":")[0] == host:
            who = each["name"] or "a friend"
            if scope_of(address) is Scope.WORLD:
                return [f"{who} dialled this machine just now at {each['reached']}: others can too."]
            return [
                f"{who} dialled this machine just now at {each['reached']}, in your network. From elsewhere it can",
                *_from_elsewhere(port),
            ]
    failed = [each for each in tried if each["tried"] and not each["reached"]]
    if failed and not any(each["reached"] for each in tried):  # who had no time to try says nothing
        who, where = failed[0]["name"] or "a friend", failed[0]["tried"]
        return [
            f"Nobody could dial this machine: {who} has just tried, at {where}. A firewall, or a router that does",
            f"not forward TCP port {port}, is in between. Open it, or let your friend invite you: it is enough if",
            "one of you can be dialled.",
        ]
    match scope_of(address):
        case Scope.MACHINE:
            return [f"{address} can be dialled from this machine only: set give.listen to an address of the network."]
        case Scope.HOME:
            return [f"{address} can be dialled from your own network; from elsewhere it can", *_from_elsewhere(port)]
        case Scope.WORLD:
            return [f"{address} can be dialled from everywhere, unless a firewall keeps port {port} shut."]
        case _:
            return []


def _from_elsewhere(port: str) -> list[str]:
    return [
        f"be dialled only if your router forwards TCP port {port} to this machine: then say where with --address.",
        "Or let your friend invite you: it is enough if one of you can be dialled.",
    ]
