"""One crash: a watched mount whose state lies on a simulated disk, a workload in it, and what is there afterwards."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from bitdustfs.edges import mounts
from bitdustfs.engine.node import Node
from bitdustfs.errors import BitdustError
from bitdustfs.model import ROOT_INO, Cookie, Ino
from tests.children import start
from tests.crash import served
from tests.crash.disk import Case, Disk
from tests.crash.loss import Image, Manner, power_loss
from tests.crash.model import Found, Story, fault_of, story
from tests.crash.oplog import Entry
from tests.crash.trace import read
from tests.crash.workloads import CHECKS, lay_out_source
from tests.mount.practice import wait_until
from tests.mount.support import HANGS_S

TRACE = "trace"
PROMISES = "promises"
_READ_BYTES = 128 * 1024
_MOST_NAMES = 100_000
_PUBLISHING = ("published",)  # workloads that need suppliers


class Yard:
    """A simulated disk, and directories of the real one: for mountpoints, suppliers and trees."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self.disk = disk
        self.directory = directory
        self.source = directory / "source"
        self.again = directory / "again"  # where one image after another is laid out
        lay_out_source(self.source)
        self._recorded: dict[str, Run] = {}

    def recorded(self, workload: str) -> Run:
        """A run of a workload to its end; always the same one."""
        if workload not in self._recorded:
            self._recorded[workload] = run_workload(self, workload)
        return self._recorded[workload]

    def fresh(self, name: str) -> Path:
        """An empty directory."""
        return Path(tempfile.mkdtemp(prefix=name, dir=self.directory))


@dataclass(frozen=True, slots=True)
class Run:
    """A workload that has run until its end or until the mount died."""

    case: Case
    suppliers: Path | None
    workload: str
    started: int  # how many entries the log had when the mount served
    length: int  # how many in the end
    points: Mapping[str, int]  # how often each point was passed that is worth a kill, while the workload ran
    killed: bool  # at the point that was asked for


class Watched:
    """A watched mount on a state directory."""

    def __init__(self, yard: Yard, state: Path, suppliers: Path | None, trace: str) -> None:
        self._words = [str(state), str(suppliers or "-"), trace]
        self.path = yard.fresh("mnt")
        self._log = yard.directory / f"{self.path.name}.log"

    def __enter__(self) -> Watched:
        with self._log.open("wb") as log:
            words = [str(self.path), *self._words]
            self.process = start("tests.crash.served", *words, stdout=subprocess.PIPE, stderr=log)
        self._watchdog = threading.Timer(HANGS_S, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        try:
            assert self.said() == "ready", f"the mount did not start:\n{self._log.read_text()}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self._watchdog.cancel()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if mounts.mounted_at(str(self.path), mounts.read_mounts()) is not None:
            mounts.detach(str(self.path), lazy=True)

    def said(self) -> str:
        """The next line that it prints; empty if it died."""
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line.decode().strip()

    def rest(self) -> None:
        """Return when all is at the suppliers, if there are any, and unneeded bytes are gone; or it died."""
        self.process.send_signal(signal.SIGUSR1)
        self.said()

    def log(self) -> str:
        return self._log.read_text()


def run_workload(yard: Yard, workload: str, *, order: tuple[str, int, str] | None = None) -> Run:
    """Run a workload in a new mount.

    Args:
        order: (point, hit, when): where the mounting process is killed; counted from when the workload begins.
    """
    case = yard.disk.case()
    suppliers = yard.fresh("suppliers") if workload in _PUBLISHING else None
    with Watched(yard, case.path, suppliers, TRACE) as mount:
        started, before = len(case.entries()), Counter(case.points())
        if order is not None:
            case.kill_at(order[0], order[1], when=order[2])
        finished = _work(mount, workload, yard.source, case.path / PROMISES)
        if finished:
            _until_committed(mount, case)
        killed = case.killed() == mount.process.pid
        assert finished or killed, f"{workload} did not finish:\n{mount.log()}"
        mount.process.kill()
        mount.process.wait()
        points = Counter(case.points()) - before
    assert "is started again" not in mount.log(), f"a service failed:\n{mount.log()}"
    return Run(case, suppliers, workload, started, len(case.entries()), _worth_a_kill(points), killed)


def run_by_hand(case: Case) -> Run:
    """What a test did itself in a watched mount that ended, with the trace `TRACE`."""
    length = len(case.entries())
    return Run(case, None, "by hand", 0, length, {}, killed=False)


def _worth_a_kill(points: Mapping[str, int]) -> Mapping[str, int]:
    """Leave out what is no step of the mount: what it was asked, and files that are not its own."""
    dull = ("catalog.db-shm", PROMISES, f"write {TRACE}")
    ours = {point: count for point, count in sorted(points.items()) if not any(word in point for word in dull)}
    own_steps = ("begin commit", "begin harden", "begin put")
    return {point: count for point, count in ours.items() if not point.startswith("begin ") or point in own_steps}


def _work(mount: Watched, workload: str, source: Path, promises: Path) -> bool:
    """Run a workload in a process of its own. False: the mount died under it."""
    words = [workload, str(mount.path), str(source), str(promises)]
    with tempfile.TemporaryFile("w+") as stderr:
        with start(
            "tests.crash.workloads",
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for _ in process.stdout:
                mount.rest()
                process.stdin.write("\n")
                process.stdin.flush()
        stderr.seek(0)
        said = stderr.read()
    assert process.returncode == 0 or f"{workload} was stopped" in said, said
    return process.returncode == 0


def _until_committed(mount: Watched, case: Case) -> None:
    """Wait until the mount has committed all that it was asked to change, or died."""

    def is_committed() -> bool:
        told = story(read((case.path / TRACE).read_bytes()))
        return told.committed == len(told.changes) or mount.process.poll() is not None

    wait_until("everything is committed", is_committed)


# --- what is there afterwards -----------------------------------------------------------------------------


def check_mounted(yard: Yard, run: Run) -> str | None:
    """Mount what a killed process left, as it lies, and say what is wrong with it."""
    past = _past(run.case.entries())
    with Watched(yard, run.case.path, run.suppliers, "trace-after") as mount:
        found = dict(_walk(mount.path, ""))
    return _fault(yard, run, past, found, Manner.KILL)


def faults_of_crashes(yard: Yard, run: Run, moments: Iterable[int], manners: Collection[Manner]) -> list[str]:
    """Say what is wrong after crashes in each manner, when so many entries were done."""
    log, faults = run.case.entries(), []
    for upto in moments:
        past = _past(log[:upto])
        for manner in manners:
            fault = _fault(yard, run, past, _shown(yard, run, past.image(manner, upto), _boot(manner)), manner)
            if fault is not None:
                faults.append(f"{manner.value} at {upto} of {run.started} to {run.length}: {fault}")
    return faults


def check_crash_of_recovery(yard: Yard, run: Run, upto: int, manner: Manner, *, step: int = 1) -> list[str]:
    """Crash when the first `upto` entries were done, start again, and crash that start at every `step`-th moment too.

    Returns:
        What is wrong after the second crash.
    """
    past, boot = _past(run.case.entries()[:upto]), _boot(manner)
    case = yard.disk.case()
    past.image(manner, upto).lay_out(case.path)
    began = len(case.entries())
    suppliers = yard.fresh("suppliers") if run.suppliers is not None else None
    if run.suppliers is not None and suppliers is not None:
        shutil.copytree(run.suppliers, suppliers, dirs_exist_ok=True)
    trio.run(tree_in, case.path, suppliers, boot)
    log, faults = case.entries(), []
    again = dataclasses.replace(run, suppliers=suppliers)
    for moment in range(began, len(log) + 1, step):
        for second in Manner:
            third = boot if second is Manner.KILL else b"a third boot"
            found = _shown(yard, again, power_loss(log[:moment], second, moment), third)
            fault = _fault(yard, run, past, found, manner if second is Manner.KILL else second)
            if fault is not None:
                faults.append(f"{manner.value} at {upto}, then {second.value} at {moment} of {len(log)}: {fault}")
    return faults


@dataclass(frozen=True, slots=True)
class _Past:
    """What was done until a crash."""

    entries: Sequence[Entry]
    seen: Image  # as programs saw it in the end
    told: Story

    def image(self, manner: Manner, seed: int) -> Image:
        """What the crash leaves."""
        return self.seen if manner is Manner.KILL else power_loss(self.entries, manner, seed)


def _past(entries: Sequence[Entry]) -> _Past:
    seen = power_loss(entries, Manner.KILL, 0)
    return _Past(entries, seen, story(read(seen.files[TRACE])))


def _boot(manner: Manner) -> bytes:
    return b"" if manner is Manner.KILL else b"another boot"


def _shown(yard: Yard, run: Run, image: Image, boot: bytes) -> Found:
    """What a node shows of an image."""
    image.lay_out_instead(yard.again)
    suppliers = yard.fresh("suppliers") if run.suppliers is not None else None
    try:
        if run.suppliers is not None and suppliers is not None:
            shutil.copytree(run.suppliers, suppliers, dirs_exist_ok=True)
        return trio.run(tree_in, yard.again, suppliers, boot)
    finally:
        if suppliers is not None:
            shutil.rmtree(suppliers)


def _fault(yard: Yard, run: Run, past: _Past, found: Found, manner: Manner) -> str | None:
    fault = fault_of(found, past.told, power_loss=manner is not Manner.KILL)
    if fault is None and run.workload in CHECKS:
        place = yard.fresh("tree")
        _lay_out(found, place)
        fault = CHECKS[run.workload](place, len(past.seen.files.get(PROMISES, b"")))
        shutil.rmtree(place)
    return fault


async def tree_in(state: Path, suppliers: Path | None, boot: bytes) -> Found:
    """Start a node over a state directory as a mount in that boot does, and read all that it shows."""
    if boot:  # what lies there was written before the machine was started
        for log in state.glob("*-wal"):
            os.utime(log, (1, 1))
    with served.opened(state, suppliers, boot=boot) as volume:
        async with volume.node.running():
            found: dict[str, bytes | str | None] = {}
            await _read_directory(volume.node, ROOT_INO, "", found)
            return found


async def _read_directory(node: Node, directory: Ino, path: str, found: dict[str, bytes | str | None]) -> None:
    for name, inode in node.tree.listing(directory, Cookie(0), _MOST_NAMES):
        below = path + os.fsdecode(name.name)
        if inode.is_dir:
            found[below] = None
            await _read_directory(node, inode.ino, below + "/", found)
        elif inode.is_symlink:
            found[below] = os.fsdecode(inode.target)
        elif inode.is_file:
            try:
                content = bytearray()
                while more := await node.files.read(inode.ino, len(content), _READ_BYTES):
                    content += more
                found[below] = bytes(content)
            except BitdustError as error:
                found[below] = f"cannot be read: {error}"
        else:
            found[below] = "special"


def _walk(directory: Path, path: str) -> Iterator[tuple[str, bytes | str | None]]:
    for entry in os.scandir(directory):
        below = path + entry.name
        if entry.is_symlink():
            yield below, os.readlink(entry.path)
        elif entry.is_dir():
            yield below, None
            yield from _walk(Path(entry.path), below + "/")
        elif entry.is_file():
            try:
                yield below, Path(entry.path).read_bytes()
            except OSError as error:
                yield below, f"cannot be read: {error}"
        else:
            yield below, "special"


def _lay_out(found: Found, place: Path) -> None:
    for path, content in sorted(found.items()):
        if content is None:
            (place / path).mkdir(parents=True)
    for path, content in found.items():
        if isinstance(content, bytes):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        elif isinstance(content, str):
            (place / path).symlink_to(content)
