"""Reports: what a running mount tells the command line. Plain dictionaries, because they travel as JSON.

`--json` prints them as they are, so a key is never renamed or given another unit.
"""

from __future__ import annotations

from typing import Final, NotRequired, TypedDict

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
    ends_s: int  # wall time of the end of its contract; 0: none is known
    counts_until_s: int  # wall time from which on it may erase what it keeps; 0: never


class BalanceReport(TypedDict):
    """What was given to one friend and taken from him. Byte-hours: a byte that is held for an hour."""

    given_byte_hours: int  # by his newest receipt: what his audits have shown
    given_since_s: int  # wall time when he began to count; 0: there is no receipt
    given_until_s: int  # wall time of that receipt; 0: there is none
    given_bytes: int  # that we kept then, by that receipt
    given_counted: int  # byte-hours by our own count
    given_differs: bool  # we have counted more than can be explained
    taken_byte_hours: int  # that audits here have shown
    taken_since_s: int  # wall time when we began to count; 0: nothing was
    taken_bytes: int  # that he kept when it was looked last
    taken_counted: int  # byte-hours by his own count, as he answered to our newest receipt
    taken_until_s: int  # wall time of the newest receipt of ours that he has answered; 0: of none
    taken_differs: bool  # he has counted more than can be explained


class FairnessReport(TypedDict):
    """What `status` says of one friend."""

    name: str
    owner: str  # 64 hex digits
    balance: BalanceReport


class StatusReport(TypedDict):
    """How safe the volume, or what lies at one path, is. On a machine that only reads: by blocks of files alone."""

    state: str  # of the worst file; a word of model.FileState
    path: str  # inside the volume, from "/"
    practice: bool
    code: str  # K/N of new blocks; "" while there is no supplier
    codes: dict[str, int]  # K/N: how many blocks have it
    unlike_blocks: int  # with something that is to have another K; of the volume, as they were counted last
    recode_blocks: int  # of the volume, being coded anew
    recode_bytes: int  # of user data in them
    files: int
    bytes: int  # of user data
    bytes_safe: int  # of these: in a safe head, and well held; each byte is in one of these five
    bytes_placed: int  # well held, and not in a safe head yet
    bytes_degraded: int  # in blocks with fewer held fragments than their quorum
    bytes_lost: int  # in blocks with fewer held fragments than they need
    bytes_local: int  # that exist only here
    files_local: int  # files with something that exists only here
    blocks: int
    held: int  # fewest held fragments of any block; 0 without a block
    needed: int  # k of that block
    wanted: int  # n of that block
    margin: int  # least over all blocks: suppliers that answer now and hold a fragment, minus k
    missing_fragments: int  # work of the repair queue
    missing_bytes: int  # of the whole volume: of the fragments to be made again
    repairing: int  # blocks of the volume that fragments are being made of now
    repair_bytes_per_s: float  # how fast repair went since the mount, pauses and all; 0: it had nothing to do
    repair_eta_s: int  # -1: not known, or nobody takes anything now, or one of these does not:
    refusing: list[str]  # labels of suppliers that take nothing before a person has chosen with `bitdustfs resolve`
    snapshots: int  # of the volume
    snapshot_bytes: int  # of user data: what only snapshots have; `df` counts it as used
    forks: int  # of the volume: states beside it that can be chosen about
    fork_bytes: int  # of user data: what they have and nothing of now; no snapshot frees it, and `df` counts it too
    spool_bytes: int
    spool_limit_bytes: int
    fetched_bytes: int  # that came from suppliers since it was mounted, with what was needed around them
    recovery_checked_s: int  # when `recover --check` succeeded last, in seconds since 1970; 0: never here
    suppliers: list[SupplierReport]
    fairness: list[FairnessReport]  # friends with whom anything was counted, by name
    waits_for: list[WaitReport]  # before anything is let go at suppliers
    trouble: list[str]  # sentences, newest first
    view: NotRequired[ViewReport]  # of a machine that only reads
    longest_step: NotRequired[StepReport]  # of a mount


class WaitReport(TypedDict):
    """A supplier that it waits for before something is let go at suppliers."""

    what: str  # "releases": anything; "orphans": what nothing names, after a recovery; "parts": of another line
    supplier: str  # label
    answers: bool
    version: int  # of the head beside ours that it showed last; 0: it has shown none since the mount
    node: str  # that signed it, in hex; "": it has shown none
    name: str  # by which `bitdustfs resolve` lets a person choose about it; "": there is nothing to choose


class StepReport(TypedDict):
    """Which step of a mount's event loop kept its thread busy for longest, since it was mounted."""

    cpu_s: float  # of the thread
    task: str
    long: int  # how many took more than 20 ms


class ViewReport(TypedDict):
    """What a machine shows that only reads."""

    version: int  # of the head whose tree it is
    time_s: int  # when that was made, in seconds since 1970, by the clock of who wrote it
    writer: str  # node id, hex
    answering: int  # suppliers that would tell of a newer one now
    needed: int  # so many must, to be sure that there is none: of fewer, all others may be a quorum


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


class LackReport(TypedDict):
    """One fragment that a block lacks."""

    index: int
    why: str  # "silence": its supplier is lost; "proof": it was denied or wrong; "unsent": never acknowledged; "none"
    whose: str  # label of the supplier that had it, or was to get it; "": nobody
    to: str  # label of the supplier that would get it now; "": nobody takes it


class BlockReport(TypedDict):
    """One block that lacks fragments."""

    block: int  # its number; negative: a block of the catalog's own copy
    held: int
    needed: int  # k
    wanted: int  # n
    bytes: int  # of one fragment
    sources: list[str]  # labels of suppliers that hold some of it and answer
    is_here: bool  # it would be made from this machine's own copy
    lacks: list[LackReport]


class ReasonReport(TypedDict):
    """Why some fragments are missing."""

    why: str  # as in LackReport
    whose: str
    since_s: int  # wall time of the verdict, in seconds since 1970; 0: not known
    fragments: int


class TakerReport(TypedDict):
    """What a supplier would get."""

    label: str
    fragments: int
    bytes: int


class VerdictReport(TypedDict):
    """What was decided about a supplier, with the numbers that decided it; 0 where one had no say."""

    at_s: int  # wall time
    label: str
    rule: str  # a word of model.Rule, in small letters
    says: str  # the same as a sentence
    away_s: float  # for how long it had not answered
    wait_s: float  # how long we wait
    longest_s: float  # its longest absence of the last 30 days
    spare: int  # fragments that the worst block could lose, without those who did not answer
    missing: int  # suppliers
    instead: str  # label; "": in nobody's place
    fragments: int  # that it held
    bytes: int


class RebuildReport(TypedDict):
    """What would be rebuilt now, and why; and what was decided about suppliers."""

    mounted: bool  # else nothing is known of who answers, and nothing of `to`, `takers`, `sources` and times
    blocks: int  # that lack fragments
    fragments: int  # that they lack
    possible: int  # of them somebody would take now
    send_bytes: int  # of those
    fetch_bytes: int  # for them, from suppliers
    blocks_here: int  # made from this machine's own copy
    hopeless: int  # blocks with fewer than k held fragments that are not here: lost, unless suppliers return
    bytes_per_s: float  # how fast it is expected to go; 0: not known
    eta_s: int  # -1: not known
    held_up: list[str]  # sentences: why it does not go on, or goes slowly
    reasons: list[ReasonReport]
    takers: list[TakerReport]
    worst: list[BlockReport]  # some of the blocks, in the order in which they would be made
    verdicts: list[VerdictReport]  # the oldest first


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
    why: list[str]  # not everything was reached, where no waiting helps: sentences


class StopReport(TypedDict):
    """What exists only here when the mount ends."""

    files_local: int
    bytes_local: int
    becomes: str  # of it at the next mount; a word of model.Unsent
    writer: str  # who writes the volume instead of this machine, in words; "": nobody that is known


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


class FriendReport(TypedDict):
    """One friend: an owner with whom there is a contract, or who keeps something for us."""

    name: str
    owner: str  # 64 hex digits
    nodes: list[str]  # of his that keep something for us, 64 hex digits each
    addresses: list[str]  # where they were last seen; "" for one that dials us
    state: str  # of the first of them; a word of core.standing.State, or "" if he keeps nothing for us
    gives_bytes: int  # that we may store with him
    used_bytes: int  # that we do, by our own count
    takes_bytes: int  # that he may store here
    since_s: int  # wall time, of the newest contract; 0: none is kept here
    until_s: int  # the same; 0: open-ended
    balance: BalanceReport


class ContractTerms(TypedDict):
    """What one contract says, from our side."""

    serial: int
    offered_bytes: int  # by us
    needed_bytes: int  # from the friend
    since_s: int
    until_s: int  # 0: open-ended


class ContractReport(TypedDict):
    """The contracts with one friend."""

    name: str
    owner: str  # hex
    connected: bool
    used_here_bytes: int  # that the friend stores with us
    used_there_bytes: int  # that we store with the friend
    agreed_s: int
    now: ContractTerms  # in force, or the newest
    coming: ContractTerms | None
    notice: ContractTerms | None  # of ours, that the friend has not signed
    balance: BalanceReport
    grace_until_s: int  # it has ended, and what the friend stores yields from then on; 0: it has not


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


class SnapshotReport(TypedDict):
    """One snapshot of the volume."""

    name: str
    made_s: float  # seconds since 1970 UTC
    automatic: bool  # made by itself, and thinned by age
    alone_bytes: int  # of user data: what suppliers would be rid of without this one


class SnapshotsReport(TypedDict):
    """All snapshots of the volume."""

    snapshots: list[SnapshotReport]  # the oldest first
    held_bytes: int  # of user data: what only snapshots have
    fork_bytes: int  # of user data: what forks have and nothing of now; snapshots may have it too


class ForkReport(TypedDict):
    """Another state of the volume, beside the one that is mounted."""

    name: str  # in .forks
    version: int  # of its head
    node: str  # that wrote it, in hex
    time_s: float  # seconds since 1970 UTC, as that machine said
    came: int  # names that only it has
    went: int  # names that only the mounted one has
    changed: int  # names that have other content or attributes there
    shown_by: list[str]  # labels of suppliers that hold a head of it, as far as is known
    answers: bool  # one of these does, now
    unreadable: str  # why it cannot be shown now, and the three numbers are 0; "": it is in .forks


class ForksReport(TypedDict):
    """What lies beside the state that is mounted."""

    version: int  # of the mounted one's head
    node: str  # this machine, in hex
    time_s: float  # of its newest head
    forks: list[ForkReport]


class SnapshotMade(TypedDict):
    """A snapshot that was made."""

    name: str
    files_before: int  # files that are in it as they were published last, or not at all


class RecodeReport(TypedDict):
    """What is to have another K than it has, or has been looked at so far."""

    looked_at: int  # files and directories
    files: int
    blocks: int
    bytes: int  # of user data
    send_bytes: int  # what the new blocks are, with all their fragments
    changes: list[RecodeChange]


class RecodeChange(TypedDict):
    """What gets one code instead of another."""

    old: str  # K/N
    new: str
    bytes: int  # of user data


class HireReport(TypedDict):
    """A supplier that was hired."""

    label: str
    node: str
    owner: str
    address: str
    bytes: int
    fragments: int


class ReachReport(TypedDict):
    """What came of it when a partner tried to dial this machine."""

    owner: str  # hexadecimal
    name: str  # of the friend; "": he has none here
    reached: str  # ADDR:PORT where he could dial; "": nowhere
    tried: str  # ADDR:PORT where he tried; "": there was nothing to try
