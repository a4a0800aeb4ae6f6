"""The practice swarm: suppliers on this machine, in HOME/demo/supplierN, and the customer, which is HOME itself.

Everything is done with the verbs of the command line, so that practice is the real thing: those that end are called
in this process, those that stay are processes of their own. What runs is known from the homes' locks; `swarm.json`
keeps what must stay over a restart: ports, code, mountpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bitdustfs.cli.common import Asked
from bitdustfs.cli.hire import hire
from bitdustfs.cli.identify import identify
from bitdustfs.cli.init import init
from bitdustfs.cli.logs import LOG_FILES
from bitdustfs.cli.mount import mount
from bitdustfs.cli.processes import Order, Starter, daemon, is_verb_of, send, start_daemons, wait_until_free
from bitdustfs.cli.umount import umount
from bitdustfs.edges import mounts
from bitdustfs.edges.config import load, store
from bitdustfs.edges.durable import TEMPORARY
from bitdustfs.edges.home import Home, hold, holder, make_home, write_atomically
from bitdustfs.errors import BadFormat, BadRequest, BitdustError, InUse

SHARE = "10 GiB"  # what each practice supplier offers and is hired for; it takes what is really stored
PATIENCE = "30s"  # nobody who practises waits for days
_VERSION = 1
_END_S = 10.0  # for a supplier to end after SIGTERM, and for any process after SIGKILL
_ANY_PORT = "127.0.0.1:0"
_SUPPLIER = re.compile(r"supplier[1-9][0-9]{0,3}")
WORDS = "recovery-words"  # those of the practice volume, below HOME/demo
# what the program makes in a home, by exact name: nothing else is ever deleted
_OUR_DIRECTORIES = ("spool", "shelf", "contracts", "addresses", "invitations", "adopting", "aside")
_OUR_CATALOGS = ("catalog.db", "catalog.db.new", "catalog.trial", "catalog.newer")
_OUR_FILES = (
    "shelf-id",
    "seat",  # edges/seat
    "dht",
    "listening",
    *(f"{name}{tail}" for name in _OUR_CATALOGS for tail in ("", "-wal", "-shm", "-journal")),
    "catalog.image",
    "recovering",
)
_OUR_LOGS = ("log", *(f"log.{number}" for number in range(1, LOG_FILES)))
_HALF_WRITTEN = re.compile(  # by a process that was killed
    r"(config\.toml|dht|keys|listening|seat|shelf-id|swarm\.json)" + TEMPORARY
)
_COPIED = re.compile(r"before fsck \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d")  # cli/checking_disk


@dataclass(slots=True)
class Member:
    """One practice supplier."""

    number: int
    spare: bool  # a candidate: hired by itself when a supplier is lost
    place: str = ""  # NODEID@ADDR:PORT once it served
    hired: bool = False  # or agreed with, if it is a spare

    @property
    def name(self) -> str:
        return f"supplier{self.number}"


@dataclass(slots=True)
class Plan:
    """What swarm.json keeps."""

    mountpoint: str
    code: str
    members: list[Member]
    made_mountpoint: bool = False

    def member(self, number: int) -> Member:
        """The supplier with this number. Raises BadRequest."""
        for member in self.members:
            if member.number == number:
                return member
        raise BadRequest(what=f"there is no practice supplier {number}: there are 1 to {len(self.members)}")


class Swarm:
    """The practice swarm of one home. Use it inside `opened`."""

    def __init__(self, home: Home, start: Starter = start_daemons) -> None:
        self.home = home
        self._start = start

    @contextlib.contextmanager
    def opened(self, *, make: bool = False) -> Iterator[Swarm]:
        """Let nobody else change this swarm meanwhile.

        Raises:
            BadRequest: there is none and it is not to be made, or the home holds something else.
            InUse: another `demo` is at work.
        """
        if self.home.keys.exists() and not self._is_marked():
            raise BadRequest(what=f"{self.home} holds a real volume: practise with another --home")
        if not self.exists():
            if not make:
                raise _no_swarm(self.home)
            self._refuse_foreign()
        make_home(self.home)
        make_home(Home(self.home.demo))
        with hold(Home(self.home.demo)):
            yield self

    def exists(self) -> bool:
        """Say whether a practice swarm was set up here: its plan can be read, or `up` marked the home."""
        try:
            return self.plan() is not None or self._is_marked()
        except BadFormat:
            return self._is_marked()

    def _is_marked(self) -> bool:
        return self.home.config.exists() and load(self.home.config).practice

    def _refuse_foreign(self) -> None:
        """Refuse to make a swarm among things that `purge` would take for the swarm's own."""
        names = (*_OUR_DIRECTORIES, *_OUR_FILES, *_OUR_LOGS)
        found = [path for path in (self.home.path / name for name in names) if path.exists() and not _is_empty(path)]
        demo = self.home.demo
        if demo.is_dir():
            found += [p for p in demo.iterdir() if p.name != "lock" and not _HALF_WRITTEN.fullmatch(p.name)]
        elif demo.exists():
            found.append(demo)
        if found:
            raise BadRequest(what=f"{found[0]} is of no practice swarm: practise with another --home")

    # -- what there is ------------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """What was set up, if anything was. Raises BadFormat."""
        try:
            said = json.loads(self._file.read_bytes())
            if said["version"] != _VERSION:
                raise BadFormat(what=f"{self._file} has version {said['version']}: `demo down --purge` removes it")
            return _plan_of(said)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as bad:
            raise BadFormat(what=f"{self._file} is damaged: `demo down --purge` removes it") from bad

    def found(self) -> Plan:
        """What was set up. Raises BadRequest: nothing was."""
        plan = self.plan()
        if plan is None:
            raise _no_swarm(self.home)
        return plan

    def is_running(self, member: Member) -> bool:
        """Say whether this supplier's process lives."""
        return holder(self._home_of(member)) is not None

    def mounted(self) -> str | None:
        """Where this home is mounted and served."""
        for each in reversed(mounts.read_mounts()):
            if each.is_ours and each.home == str(self.home):
                return each.mountpoint if holder(self.home) is not None else None
        return None

    # -- up -----------------------------------------------------------------------------------------------------

    def up(self, place: str, *, suppliers: int, spares: int, code: str) -> Plan:
        """Make what is missing and start what does not run.

        A swarm that exists keeps its suppliers and its code.
        """
        mounted = self.mounted()
        if mounted is not None and mounted != place:
            raise BadRequest(what=f"this practice swarm is mounted at {mounted}: `bitdustfs demo down` ends it")
        plan = self.plan() or Plan(place, code, [Member(i + 1, i >= suppliers) for i in range(suppliers + spares)])
        if mounted is not None and all(m.hired for m in plan.members) and self._all_run(plan):
            return plan
        mounts.check_fuse()
        if plan.mountpoint != place:
            plan.mountpoint, plan.made_mountpoint = place, False
        if mounts.mounted_at(place, mounts.read_mounts()) is None and not Path(place).exists():
            Path(place).mkdir(mode=0o755, parents=True)
            plan.made_mountpoint = True
        self._save(plan)
        self._make_keys(plan)
        for member in plan.members:
            if not member.place:
                self.kill(member)  # an `up` that was interrupted started it, and never heard where it listens
        self.start(plan, [m for m in plan.members if not self.is_running(m)])
        self.hire(plan, plan.members)
        if mounted is None:
            _call(mount, self.home, f"--code={plan.code}", "--", place, start=self._start)
        return plan

    def start(self, plan: Plan, members: Sequence[Member]) -> None:
        """Start suppliers, all at once, and wait until each serves."""
        if not members:
            return
        owner = _call(identify, self.home, "--owner").strip()
        became = self._start([self._order(each, owner) for each in members])
        for at, member in enumerate(members):
            if isinstance(became[at], InUse) and not self.is_running(member):  # somebody took its port meanwhile
                became[at : at + 1] = self._start([self._order(member, owner, _ANY_PORT)])
        failed: list[BitdustError] = []
        for member, place in zip(members, became, strict=True):
            if isinstance(place, BitdustError):
                failed.append(place)
                continue
            member.hired = member.hired and place == member.place  # a new address must be told to the customer
            member.place = place
        self._save(plan)
        if failed:
            raise failed[0]

    def _order(self, member: Member, owner: str, address: str = "") -> Order:
        home = self._home_of(member)
        listen = address or member.place.partition("@")[2] or _ANY_PORT
        words = ("serve", "--listen", listen, "--donate", SHARE, "--allow", f"{owner}:{SHARE}")
        return daemon(home, home.path / "stderr", *words)

    def _make_keys(self, plan: Plan) -> None:
        """Run `init` for everybody who has no keys."""
        if not self._is_marked():  # first: keys in a home that is not marked are those of a real volume
            store(self.home.config, "practice", "true")
            if not load(self.home.config).patience:
                store(self.home.config, "patience", PATIENCE)
        homes = [self.home, *(self._home_of(member) for member in plan.members)]
        words = [self.home.demo / WORDS, *(self.home.demo / f"{m.name}.words" for m in plan.members)]
        for home, file in zip(homes, words, strict=True):
            if not home.keys.exists():
                file.unlink(missing_ok=True)
                _call(init, home, "--words-file", str(file))
        for file in words[1:]:
            file.unlink(missing_ok=True)  # nobody will ever recover a practice supplier

    def hire(self, plan: Plan, members: Sequence[Member]) -> None:
        """Hire those who run and should be hired and are not, or not at their present address."""
        for spare in (False, True):
            wanted = [m for m in members if m.spare is spare and not m.hired]
            if wanted:
                how = ["--candidate"] if spare else []
                labels = [word for member in wanted for word in ("--label", member.name)]
                _call(hire, self.home, "--size", SHARE, *how, *labels, *(m.place for m in wanted))
                for member in wanted:
                    member.hired = True
                self._save(plan)

    # -- down ---------------------------------------------------------------------------------------------------

    def kill(self, member: Member) -> bool:
        """End a supplier as a power cut would. False: it does not run."""
        home = self._home_of(member)
        pid = holder(home)
        if pid is None:
            return False
        self._signal(member, pid, signal.SIGKILL)
        wait_until_free(home, wait_s=_END_S)
        return True

    def down(self, members: Sequence[Member]) -> None:
        """Unmount, and end these suppliers."""
        for each in mounts.read_mounts():
            if each.is_ours and each.home == str(self.home):
                _call(umount, self.home, "--", each.mountpoint)
        running = [(m, holder(self._home_of(m))) for m in members]
        for member, pid in running:
            if pid is not None:
                self._signal(member, pid, signal.SIGTERM)
        for member, pid in running:
            try:
                wait_until_free(self._home_of(member), wait_s=_END_S)
            except BitdustError:
                if pid is not None:
                    self._signal(member, pid, signal.SIGKILL)
                wait_until_free(self._home_of(member), wait_s=_END_S)

    def on_disk(self) -> list[Member]:
        """The suppliers that have a home, whether there is a plan or not."""
        directories = [path for path in sorted(self.home.demo.iterdir()) if path.is_dir() and not path.is_symlink()]
        numbers = [int(path.name.removeprefix("supplier")) for path in directories if _SUPPLIER.fullmatch(path.name)]
        return [Member(number, spare=True) for number in numbers]

    def purge(self, plan: Plan | None) -> None:
        """Delete what the program made, and nothing beside it; the caller ended the swarm.

        The marks of a practice swarm go last, so that one that was interrupted can be repeated.

        Args:
            plan: None: it cannot be read, and the mountpoint stays.
        """
        home, demo = self.home.path, self.home.demo
        members = plan.members if plan is not None else self.on_disk()
        _delete_directories([home / name for name in _OUR_DIRECTORIES] + [self._home_of(m).path for m in members])
        _delete_directories([path for path in home.iterdir() if _COPIED.fullmatch(path.name)])
        words = (WORDS, *(f"{m.name}.words" for m in members))
        _delete_files([home / name for name in _OUR_FILES] + [demo / name for name in words])
        _delete_files([path for path in (*home.iterdir(), *demo.iterdir()) if _HALF_WRITTEN.fullmatch(path.name)])
        _delete_files([self.home.keys, *(home / name for name in _OUR_LOGS)])
        _delete_files([self._file])
        _delete_files([self.home.config, self.home.control, self.home.lock, Home(demo).lock])
        for directory in (demo, home):
            with contextlib.suppress(OSError):  # not empty: something in it is not ours
                directory.rmdir()
        if plan is not None and plan.made_mountpoint:
            with contextlib.suppress(OSError):
                Path(plan.mountpoint).rmdir()

    def _signal(self, member: Member, pid: int, number: signal.Signals) -> None:
        if not is_verb_of(pid, self._home_of(member), "serve"):
            raise BadRequest(what=f"process {pid} holds {self._home_of(member)}, and it is no practice supplier")
        send(pid, number)

    # -- private ------------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.home.demo / "swarm.json"

    def _home_of(self, member: Member) -> Home:
        return Home(self.home.demo / member.name)

    def _all_run(self, plan: Plan) -> bool:
        return all(self.is_running(member) for member in plan.members)

    def _save(self, plan: Plan) -> None:
        said = {"version": _VERSION, **dataclasses.asdict(plan)}
        write_atomically(self._file, json.dumps(said, indent=1).encode() + b"\n")


def _call(verb: click.Command, home: Home, *words: str, start: Starter = start_daemons) -> str:
    """Do what the command line does for a verb that ends, and return what it printed.

    In this process: starting one, with all that it loads, would take longer than what it does.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        asked = Asked(home=str(home), start=start)
        verb.main(list(words), prog_name="bitdustfs", standalone_mode=False, obj=asked)
    return printed.getvalue()


def _no_swarm(home: Home) -> BadRequest:
    return BadRequest(what=f"there is no practice swarm in {home}: `bitdustfs demo up DIR` makes one")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _delete_directories(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _delete_files(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def _plan_of(said: dict[str, Any]) -> Plan:
    """Raises ValueError, KeyError, TypeError."""
    members = [Member(**member) for member in said["members"]]
    if not members or [m.number for m in members] != list(range(1, len(members) + 1)):
        raise ValueError("its suppliers are not numbered from 1")  # their numbers name directories
    return Plan(
        mountpoint=str(said["mountpoint"]),
        code=str(said["code"]),
        members=members,
        made_mountpoint=bool(said["made_mountpoint"]),
    )
