"""Reports: what a running mount tells the command line. Plain dictionaries, because they travel as JSON.

`--json` prints them as they are, so a key is never renamed or given another unit.
"""

from __future__ import annotations

from typing import Final, TypedDict

PRACTICE_BANNER: Final = "practice: all suppliers are on this machine; do not keep anything here"


class SupplierReport(TypedDict):
    """One supplier, whatever its standing."""

    label: str
    node: str  # 64 hex digits
    address: str
    answers: bool
    state: str  # a word of core.standing.State
    since_s: int  # wall time since when it answers, or does not; 0: not known
    audited_s: int  # wall time of its last answer to an audit; 0: none yet
    score: int  # 0 … 100, by audits, uptime and speed; older ones count less
    audits_wrong: int  # fragments that audits found wrong or gone
    used_bytes: int
    capacity_bytes: int


class StatusReport(TypedDict):
    """How safe the volume, or what lies at one path, is."""

    state: str  # of the worst file; a word of model.FileState
    path: str  # inside the volume, from "/"
    practice: bool
    code: str  # K/N of new blocks; "" while there is no supplier
    files: int
    bytes: int  # of user data
    files_local: int  # files with something that exists only here
    bytes_local: int
    blocks: int
    held: int  # fewest held fragments of any block; 0 without a block
    wanted: int  # n of that block
    margin: int  # least over all blocks: suppliers that answer now and hold a fragment, minus k
    missing_fragments: int  # work of the repair queue
    spool_bytes: int
    spool_limit_bytes: int
    fetched_bytes: int  # that came from suppliers since it was mounted, with what was needed around them
    recovery_checked_s: int  # when `recover --check` succeeded last, in seconds since 1970; 0: never here
    suppliers: list[SupplierReport]
    trouble: list[str]  # sentences, newest first


class WithoutReport(TypedDict):
    """What would be if one supplier went now."""

    label: str
    fragments: int  # that it holds
    used_bytes: int  # of them
    state: str  # of the worst block then; a word of model.FileState
    blocks_lost: int  # with fewer fragments left than they need
    blocks_degraded: int
    files_lost: int  # that need one of the lost blocks and are not whole on this machine
    bytes_lost: int  # of these files
    examples: list[str]  # paths of some of them, from "/"
    held: int  # fragments of the worst block then; 0 without a block
    needed: int  # k of that block
    wanted: int  # n of that block
    margin: int  # least over all blocks then: suppliers that answer now and hold a fragment, minus k
    others: int  # hired suppliers and candidates beside it
    most_wanted: int  # the greatest n of any block


class SyncProgress(TypedDict):
    """One step of a `sync` that goes on."""

    placed_bytes: int
    total_bytes: int
    blocks: int  # that do not have all their fragments yet
    missing: list[str]  # labels of suppliers that do not answer


class SyncReport(TypedDict):
    """How a `sync` ended."""

    state: str
    missing: list[str]  # labels of the suppliers that fragments still wait for
    missing_fragments: int  # that no supplier holds
    files_local: int
    bytes_local: int


class StopReport(TypedDict):
    """What exists only here when the mount ends."""

    files_local: int
    bytes_local: int


class DropReport(TypedDict):
    """What `cache drop` gave back."""

    dropped_bytes: int


class AuditReport(TypedDict):
    """How it went to ask a supplier for all that it should hold."""

    label: str
    fragments: int  # asked for
    wrong: int  # of them wrong or gone
    refused: int  # of them neither shown nor denied: its disk may have failed
    silent: bool  # it stopped answering before all was asked for


class LeaveReport(TypedDict):
    """A supplier that is to leave, or to stay after all."""

    label: str
    state: str  # a word of model.Standing, in small letters
    bytes: int  # that it keeps
    fragments: int


class JoinReport(TypedDict):
    """A friend, whose invitation was used."""

    name: str
    owner: str  # 64 hex digits
    node: str
    address: str  # where it was dialled
    gives_bytes: int  # that we get
    takes_bytes: int  # that we give
    was_done: bool  # the contract was there before
    listens: str  # ADDR:PORT where this machine says that it can be dialled; "": it does not listen
    seen: str  # ADDR:PORT from which the friend's machine saw this one come
    reached: str  # ADDR:PORT where it could dial this one; "": nowhere, or it was not tried


class HireReport(TypedDict):
    """A supplier that was hired."""

    label: str
    node: str
    owner: str
    address: str
    bytes: int
    fragments: int
