"""The practice swarm: suppliers on this machine, in HOME/demo/supplierN, and the customer, which is HOME itself.

Everything is done with the verbs of the command line, as processes, so that practice is the real thing. What runs is
known from the homes' locks; `swarm.json` keeps what must stay over a restart: ports, code, mountpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitdustfs.cli.processes import Starting, is_verb_of, send, start_daemon, start_verb, wait_until_free
from bitdustfs.edges import mounts
from bitdustfs.edges.config import load
from bitdustfs.edges.home import Home, hold, holder, make_home, write_atomically
from bitdustfs.errors import BadFormat, BadRequest, BitdustError

SHARE = "10 GiB"  # what each practice supplier offers and is hired for; it takes what is really stored
_VERSION = 1
_END_S = 10.0  # for a supplier to end after SIGTERM, and for any process after SIGKILL
_OURS = ("config.toml", "keys", "catalog.db", "catalog.db-wal", "catalog.db-shm", "spool", "shelf", "contracts")
_OURS_TOO = ("control.sock", "lock", "demo")


@dataclass(slots=True)
class Member:
    """One practice supplier."""

    number: int
    spare: bool  # runs, but is not hired
    place: str = ""  # NODEID@ADDR:PORT once it served
    hired: bool = False

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

    def __init__(self, home: Home) -> None:
        self.home = home

    @contextlib.contextmanager
    def opened(self, *, make: bool = False) -> Iterator[Swarm]:
        """Let nobody else change this swarm meanwhile.

        Raises:
            BadRequest: there is none and it is not to be made, or the home holds a real volume.
            InUse: another `demo` is at work.
        """
        if not make and not self.home.demo.is_dir():
            raise _no_swarm(self.home)
        if self.home.keys.exists() and not load(self.home.config).practice:
            raise BadRequest(what=f"{self.home} holds a real volume: practise with another --home")
        make_home(self.home)
        make_home(Home(self.home.demo))
        with hold(Home(self.home.demo)):
            yield self

    # -- what there is ------------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """What was set up, if anything was. Raises BadFormat."""
        try:
            said = json.loads(self._file.read_bytes())
            if said["version"] != _VERSION:
                raise BadFormat(what=f"{self._file} has version {said['version']}: `demo down --purge` removes it")
            return _plan_of(said)
        except FileNotFoundError:
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
        for mount in reversed(mounts.read_mounts()):
            if mount.is_ours and mount.home == str(self.home):
                return mount.mountpoint if holder(self.home) is not None else None
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
        if mounted is not None and all(m.hired or m.spare for m in plan.members) and self._all_run(plan):
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
        self._hire(plan)
        if mounted is None:
            start_verb(self.home, "mount", f"--code={plan.code}", "--", place).finish()
        return plan

    def start(self, plan: Plan, members: Sequence[Member]) -> None:
        """Start suppliers, all at once, and wait until each serves."""
        if not members:
            return
        owner = start_verb(self.home, "id", "--owner").finish().strip()
        starting: list[tuple[Member, Starting]] = []
        for member in members:
            address = member.place.partition("@")[2] or "127.0.0.1:0"
            words = ("serve", "--listen", address, "--donate", SHARE, "--allow", f"{owner}:{SHARE}")
            home = self._home_of(member)
            starting.append((member, start_daemon(home, home.path / "stderr", *words)))
        failed: list[BitdustError] = []
        for member, start in starting:
            try:
                member.place = start.first_line()
            except BitdustError as error:
                failed.append(error)
        self._save(plan)
        if failed:
            raise failed[0]

    def _make_keys(self, plan: Plan) -> None:
        """Run `init` for everybody who has no keys, all at once."""
        homes = [self.home, *(self._home_of(member) for member in plan.members)]
        words = [self.home.demo / "recovery-words", *(self.home.demo / f"{m.name}.words" for m in plan.members)]
        making = []
        for home, file in zip(homes, words, strict=True):
            if not home.keys.exists():
                file.unlink(missing_ok=True)
                making.append(start_verb(home, "init", "--words-file", str(file)))
        for verb in making:
            verb.finish()
        for file in words[1:]:
            file.unlink(missing_ok=True)  # nobody will ever recover a practice supplier
        if not load(self.home.config).practice:
            start_verb(self.home, "config", "set", "practice", "true").finish()

    def _hire(self, plan: Plan) -> None:
        wanted = [m for m in plan.members if not m.spare and not m.hired]
        if not wanted:
            return
        labels = [word for member in wanted for word in ("--label", member.name)]
        start_verb(self.home, "hire", "--size", SHARE, *labels, *(m.place for m in wanted)).finish()
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

    def down(self) -> None:
        """Unmount, and end all suppliers."""
        plan = self.plan()
        if plan is None:
            return
        listed = mounts.read_mounts()
        for mount in listed:
            if mount.is_ours and mount.home == str(self.home):
                start_verb(self.home, "umount", "--", mount.mountpoint).finish()
        running = [(m, holder(self._home_of(m))) for m in plan.members]
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

    def purge(self) -> None:
        """Delete everything that the swarm made; the caller ended it."""
        plan = self.plan()
        for name in (*_OURS, *(path.name for path in self.home.path.glob("log*")), *_OURS_TOO):
            path = self.home.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: something in it is not ours
            self.home.path.rmdir()
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


def _no_swarm(home: Home) -> BadRequest:
    return BadRequest(what=f"there is no practice swarm in {home}: `bitdustfs demo up DIR` makes one")


def _plan_of(said: dict[str, Any]) -> Plan:
    return Plan(
        mountpoint=str(said["mountpoint"]),
        code=str(said["code"]),
        members=[Member(**member) for member in said["members"]],
        made_mountpoint=bool(said["made_mountpoint"]),
    )
