"""The contracts of a process that serves: what there is to tell of them, and their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bitdustfs.cli.giving import Giving
from bitdustfs.core import agreement
from bitdustfs.core.agreement import Agreement, Wish
from bitdustfs.core.contract import Contract
from bitdustfs.core.grace import NOTICE_S
from bitdustfs.core.report import ContractReport, ContractTerms
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.edges.names_disk import names
from bitdustfs.errors import BadRequest, NotFound, PeerRefused, Unavailable
from bitdustfs.model import OwnerId


def contract_verbs(
    given: Giving, contracts: Path, on_changed: Callable[[], None] = lambda: None
) -> Mapping[str, Handler]:
    """The requests that a process answers for `bitdustfs contracts`.

    Args:
        contracts: the directory that has the names of friends too.
        on_changed: called when both have signed another contract.
    """

    async def listed(_args: Args, _report: Report) -> Mapping[str, object]:
        return {"contracts": reports(given, contracts)}

    async def changed(args: Args, _report: Report) -> Mapping[str, object]:
        owner = _owner_called(given, contracts, str(args["name"]))
        held = given.clerk.newest(owner)
        if args.get("end"):
            ends_s = given.clerk.now_s() + NOTICE_S
            if held is not None and held.terms.until_s and held.terms.until_s <= ends_s:
                return {**_report_of(given, contracts, owner), "is_agreed": True}
            wish = Wish(until_s=ends_s)
        elif args.get("renew"):
            given.heed()  # that we go on was just written there
            wish = Wish(until_s=0)
        else:
            wish = Wish(gives_bytes=args.get("offer"), needs_bytes=args.get("need"))
        try:
            _signed, is_agreed = await given.accords.change(owner, wish)
        except PeerRefused as refused:
            if not args.get("renew"):
                raise
            raise Unavailable(
                what=f"this side goes on, and {args['name']} has to say so too, with `bitdustfs contracts renew`: "
                f"the contract ends as it was agreed until then ({refused})"
            ) from refused
        on_changed()
        return {**_report_of(given, contracts, owner), "is_agreed": is_agreed}

    return {"contracts": listed, "contract-change": changed}


def reports(given: Giving, contracts: Path) -> Sequence[ContractReport]:
    """All contracts, by name."""
    made = [_report_of(given, contracts, owner) for owner in given.clerk.agreements]
    return sorted(made, key=lambda each: each["name"])


def _owner_called(given: Giving, contracts: Path, name: str) -> OwnerId:
    """Whom a name, or the first 8 digits or more of an owner id, means. Raises NotFound, BadRequest."""
    known = names(contracts)
    found = [owner for owner in given.clerk.agreements if known.get(owner) == name]
    if not found and len(name) >= 8:
        found = [owner for owner in given.clerk.agreements if owner.hex().startswith(name.lower())]
    if not found:
        raise NotFound(what=f"there is no contract with {name!r}: `bitdustfs contracts` lists them")
    if len(found) > 1:
        raise BadRequest(what=f"{name!r} means several: write more digits of the owner id")
    return found[0]


def _report_of(given: Giving, contracts: Path, owner: OwnerId) -> ContractReport:
    clerk, kept = given.clerk, given.clerk.agreements[owner]
    now_s = clerk.now_s()
    held = kept.in_force(now_s) or kept.newest
    coming, notice = kept.coming(now_s), clerk.notice(owner)
    return ContractReport(
        name=names(contracts).get(owner, owner.hex()[:8]),
        owner=owner.hex(),
        connected=any(
            peer.owner == owner for node in given.connections.nodes() for peer in given.connections.of(node)
        ),
        used_here_bytes=clerk.used_here(owner)[0],
        used_there_bytes=clerk.used_there(owner)[0] if clerk.used_there is not None else 0,
        agreed_s=_first_s(kept),
        now=_terms(held, owner),
        coming=_terms(coming, owner) if coming is not None else None,
        notice=_terms(notice, owner) if notice is not None else None,
        balance=given.ledger.balance(owner),
        grace_until_s=given.keeper.endings.grace_ends_s(owner),
    )


def _terms(held: Contract, owner: OwnerId) -> ContractTerms:
    theirs = agreement.party_of(held, owner)
    ours = held.terms.second if held.terms.first.owner == owner else held.terms.first
    return ContractTerms(
        serial=held.terms.serial,
        offered_bytes=ours.gives_bytes,
        needed_bytes=theirs.gives_bytes,
        since_s=held.terms.since_s,
        until_s=held.terms.until_s,
    )


def _first_s(kept: Agreement) -> int:
    return kept.contracts[0].terms.since_s
