"""The simulated disk, as tests use it; `recorder` is the process behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bitdustfs.edges import mounts
from tests.crash.loss import Image, Manner, power_loss
from tests.crash.oplog import Entry, unpack

_ROOT = Path(__file__).resolve().parents[2]
_END_S = 20


class Disk:
    """A mounted simulated disk. Each test makes itself cases on it, one after another."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bitdustfs-disk-"))
        self._directory.chmod(0o755)
        self._root = self._directory / "mnt"
        self._logs = self._directory / "logs"
        self._cases = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Disk:
        self._root.mkdir()
        self._logs.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.recorder", str(self._root), str(self._logs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        try:
            assert self._heard() == {"ready": True}
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            process.stdout.close()
            if mounts.mounted_at(str(self._root), mounts.read_mounts()) is not None:
                mounts.detach(str(self._root), lazy=True)
            shutil.rmtree(self._directory)

    def case(self) -> Case:
        """An empty disk of its own. Of the one before it only the log is left."""
        self._cases += 1
        name = f"case{self._cases}"
        (self._root / name).mkdir(mode=0o700)
        self.told(do="begin", name=name)
        return Case(self, self._root / name, self._logs / name)

    def told(self, **order: object) -> dict[str, int]:
        """Give an order and get the answer."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, int]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the simulated disk ended"
        answer: dict[str, int] = json.loads(line)
        return answer


class Case:
    """One simulated disk: the directory `path`."""

    def __init__(self, disk: Disk, path: Path, log: Path) -> None:
        self._disk = disk
        self._log = log
        self.path = path

    def kill_at(self, point: str, hit: int = 1, *, when: str = "before") -> None:
        """Have the process killed that passes the point for the `hit`-th time from now on."""
        self._disk.told(do="order", point=point, hit=hit, when=when)

    def fail_at(self, point: str, hit: int, code: int, *, times: int = 1) -> None:
        """Have the point fail with an errno, at its `hit`-th passing and `times` − 1 more."""
        self._disk.told(do="order", point=point, hit=hit, code=code, times=times)

    def points(self) -> dict[str, int]:
        """How often each point was passed since the case began."""
        return self._disk.told(do="points")

    def killed(self) -> int:
        """The process that was killed last; 0: none."""
        return self._disk.told(do="state")["killed"]

    def discard(self) -> None:
        """Delete the log; nothing can be asked any more."""
        self._log.unlink()

    def entries(self) -> Sequence[Entry]:
        """All that was done so far."""
        return list(unpack(self._log.read_bytes()))

    def image(self) -> Image:
        """What is on the disk for programs."""
        return power_loss(self.entries(), Manner.KILL, 0)
