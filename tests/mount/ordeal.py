"""One tree in a practice swarm, and its model, through everything that can happen to them.

Steps go to both. Beside them stand the events of a hard life: `drop`, `push`, `sync`, `kill`, `remount`, `lose` and
`revive`.

What a `kill -9` may cost. Operations are committed in their order, 20 ms after they were acknowledged at the latest;
fsync commits all before it. So what is there after the next mount is what the model was after one of the last
steps, none of them older than the last fsync or than ten seconds; of a long write it may be some of its requests.
Only bytes that were written over others may be there without what came before them: they were put where those lay.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tests.mount.practice import Practice
from tests.mount.tree_model import Kind, TreeModel, difference
from tests.mount.tree_steps import RealTree, Step, outcome, parts

EVENTS = ("drop", "push", "sync", "kill", "remount", "lose", "revive")
_MOST_LOST = 2  # n - k of the swarm
_COMMITTED_AFTER_S = 10.0  # it should be 20 ms, but other processes run too
_CHECK_EVERY = 50  # steps
_SHOWN = 40  # steps of a failure
_ATTEMPTS = 200  # to shorten a failure


class Ordeal:
    """A directory of a mount that must behave as a model does.

    Args:
        name: of the directory; it is made.
    """

    def __init__(self, practice: Practice, name: str) -> None:
        (practice.path / name).mkdir()
        (practice.path / name).chmod(0o755)
        self.model = TreeModel()
        self._practice = practice
        self._real = RealTree(practice.path / name)
        self._lost: list[int] = []
        self._missed: set[int] = set()  # suppliers that may lack fragments
        self.drop()

    def do(self, one: Step) -> None:
        """Do a step on both sides. AssertionError: they answered differently."""
        if one.name in EVENTS:
            getattr(self, one.name)(*one.args)
            return
        wanted, got = outcome(self.model, one), outcome(self._real, one)
        assert got == wanted, f"{one!r} answered {_short(got)}, not {_short(wanted)}{_where(got, wanted)}"
        self._since.append((time.monotonic(), one))
        if one.name == "fsync" and got is None:
            self._committed()

    def do_all(self, steps: Sequence[Step]) -> None:
        for one in steps:
            self.do(one)
        self.check()

    def check(self) -> None:
        """Compare everything that can be seen, and learn the times."""
        shown = self._real.dump()
        found = difference(self.model.dump(), shown)
        assert found is None, found
        self.model.settle(shown)
        for slot, handle in self.model.handles.items():
            got = outcome(self._real, Step("pread", (slot, 0, len(handle.node.content) + 1)))
            wanted = outcome(self.model, Step("pread", (slot, 0, len(handle.node.content) + 1)))
            assert got == wanted, f"open file {slot}: {_short(got)}, not {_short(wanted)}{_where(got, wanted)}"

    def end(self) -> None:
        """Close everything and have all suppliers back, whatever happened."""
        self._close()
        self.revive()

    # -- events --------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """The next read comes from suppliers."""
        self._practice.ask("cache-drop")
        self._committed()

    def push(self) -> None:
        """What is dirty begins to leave, and the next steps meet it on its way."""
        self._practice.ask("sync", timeout=0.02)

    def sync(self) -> None:
        """Everything to all suppliers."""
        self.revive()
        self._practice.sync()
        self._missed.clear()
        self._committed()

    def lose(self, number: int) -> None:
        """A supplier is killed, if the code can bear it: what came after the last sync may lack those of before."""
        if number not in self._lost and len({*self._missed, number}) <= _MOST_LOST:
            self._practice.kill_supplier(number)
            self._lost.append(number)
            self._missed.add(number)

    def revive(self) -> None:
        """All suppliers are back."""
        lost, self._lost = self._lost, []
        if lost:
            self._practice.revive(*lost)

    def remount(self) -> None:
        """A clean umount, and a mount."""
        self._close()
        self._practice.umount()
        self._practice.mount()
        self._committed()
        self.check()

    def kill(self) -> None:
        """`kill -9` of the mounting process, and a mount."""
        while self._since and self._since[0][0] < time.monotonic() - _COMMITTED_AFTER_S:
            outcome(self._base, self._since.pop(0)[1])
        self._practice.kill_mount()
        self._close()
        self._practice.mount()
        self.model = self._survivor()
        self._committed()
        self.check()

    # -- private -------------------------------------------------------------------------------------------

    def _committed(self) -> None:
        self.model.written.clear()
        self._base = copy.deepcopy(self.model)
        self._since: list[tuple[float, Step]] = []

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # of a dead mount
            self._real.close_all()
        self.model.handles.clear()

    def _survivor(self) -> TreeModel:
        """The newest state of the model that the real tree shows."""
        shown = self._real.dump()
        newest, why = None, []
        written = list(self._states())[-1].written  # of the end: it is always the same object
        for number, state in enumerate(self._states()):
            found = difference(state.dump(), shown, written[len(state.written) :])
            newest = number if found is None else newest
            why += [found] if found is not None and found not in why else []
        if newest is None:
            raise AssertionError("\n    ".join(["after kill -9 none of the last states is there:", *why]))
        state = next(islice(self._states(), newest, None))
        state.handles.clear()
        for path, node in state.walk():
            if node.kind is Kind.FILE:
                node.content = bytearray(shown[path].content)
        return state

    def _states(self) -> Iterator[TreeModel]:
        """All that may be there after a crash, oldest first. It is always the same object."""
        state = copy.deepcopy(self._base)
        yield state
        for _, one in self._since:
            for part in parts(one, state):
                outcome(state, part)
                yield state


Pick = Callable[[TreeModel], Step | None]


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, after which steps."""

    steps: Sequence[Step]
    why: str

    def __str__(self) -> str:
        shown = "\n".join(f"    {one!r}," for one in self.steps[-_SHOWN:])
        return f"step {len(self.steps)}: {self.why}\nthe last steps were\n{shown}"


def run(practice: Practice, name: str, pick: Pick) -> Failure | None:
    """Do the steps that `pick` chooses until it has no more, comparing everything from time to time."""
    ordeal = Ordeal(practice, name)
    done: list[Step] = []
    try:
        while (one := pick(ordeal.model)) is not None:
            done.append(one)
            ordeal.do(one)
            if len(done) % _CHECK_EVERY == 0:
                ordeal.check()
        ordeal.sync()
        ordeal.drop()
        ordeal.remount()
    except (AssertionError, OSError) as error:
        return Failure(done, str(error))
    finally:
        ordeal.end()
    return None


def repeated(steps: Sequence[Step]) -> Pick:
    """Pick these steps."""
    left = iter(steps)
    return lambda _model: next(left, None)


def shortest(practice: Practice, name: str, failed: Failure) -> Failure:
    """Leave steps out as long as it still fails."""
    attempts, size = iter(range(_ATTEMPTS)), len(failed.steps) // 2
    while size:
        start = 0
        while start < len(failed.steps):
            number = next(attempts, None)
            if number is None:
                return failed
            fewer = [*failed.steps[:start], *failed.steps[start + size :]]
            again = run(practice, f"{name}-{number}", repeated(fewer))
            failed, start = (again, start) if again is not None else (failed, start + size)
        size //= 2
    return failed


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) < 200 else f"{len(answer) if isinstance(answer, bytes) else ''} bytes {text[:60]}…"


def _where(got: object, wanted: object) -> str:
    if not isinstance(got, bytes) or not isinstance(wanted, bytes):
        return ""
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"; the first wrong byte is {at}"
