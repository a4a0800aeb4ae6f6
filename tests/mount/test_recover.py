"""This machine burns: an empty one gets the whole tree back from the words and one address.

One swarm for all: six suppliers, of which any three are enough. All tests but the last leave it mounted and honest.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home, holder
from bitdustfs.errors import BitdustError
from tests.children import Child
from tests.engine.doomed import POINTS
from tests.mount.practice import Practice, wait_until
from tests.mount.published import is_all_held_by
from tests.mount.trees import real_tree, run

pytestmark = pytest.mark.slow
CODE = "3/6"
FILES, LONG_FILES = 500, 2000
DICE = random.Random(14)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    with Practice(tmp_path_factory.mktemp("burning"), suppliers=6, code=CODE) as practice:
        yield practice


@pytest.fixture(scope="module")
def tree(swarm: Practice, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A tree with everything that a tree can have, and the same in the volume, safe, in a snapshot."""
    files = FILES if "not long" in pytestconfig.getoption("markexpr") else LONG_FILES
    source = real_tree(tmp_path_factory.mktemp("tree") / "source", files)
    os.setxattr(source / "abc.py", "user.colour", b"blue")
    os.utime(source / "abc.py", ns=(1, 1_234_567_890_123_456_789))
    (source / os.fsdecode(b"odd \xff\nname")).write_bytes(b"odd")
    with (source / "holes").open("wb") as file:
        file.truncate(5_000_000)
        file.write(b"front")
    run("rsync", "-aHAX", f"{source}/", swarm.path / "tree")
    swarm.sync()
    return source


def differences(source: Path, target: Path, *, read: bool = True) -> str:
    """What differs in names, sizes, metadata, links, xattrs, and, if all is to be read, contents. Changes nothing."""
    how = ("-aHAX", *(["--checksum"] if read else []), "--itemize-changes", "--delete", "--dry-run")
    return run("rsync", *how, f"{source}/", target)


def wait_until_at_rest(swarm: Practice, *numbers: int) -> None:
    """Until these suppliers have the newest head: what is safe is at enough of all, whichever those are."""
    homes = [swarm.supplier_home(number) for number in numbers]
    wait_until("they have the newest head", lambda: is_all_held_by(homes, swarm.home))


def test_tree_comes_back_from_the_words_and_one_address_when_the_margin_is_dead_too(
    swarm: Practice, tree: Path
) -> None:
    swarm.run("sync", str(swarm.path))
    assert swarm.status()["state"] == "safe"
    (swarm.path / "later").write_bytes(b"after the snapshot")
    swarm.sync()
    assert os.getxattr(swarm.path / "later", "user.bitdustfs.state") == b"safe"
    wait_until_at_rest(swarm, 3, 5, 6)
    swarm.kill_mount()
    swarm.burn()
    for number in (1, 2, 4):
        swarm.kill_supplier(number)
    (swarm.home / "recovering").touch()  # as a recovery leaves it that was killed before it wrote the keys
    (swarm.home / "catalog.db").write_bytes(b"of that one")
    assert "confirmed by 3 of 6 suppliers" in swarm.recover(3)
    with closing(SqliteCatalog(swarm.home / "catalog.db")) as catalog:  # what nothing names is found, and let go
        assert catalog.local_value("orphans") == b"[]"
    swarm.run("mount", "--", str(swarm.path))
    assert differences(tree, swarm.path / "tree") == ""
    assert swarm.status()["code"] == CODE  # it is the volume's; six suppliers alone would make it 2/6
    assert (swarm.path / "later").read_bytes() == b"after the snapshot"
    assert os.lstat(swarm.path / "tree" / "abc.py").st_mtime_ns == 1_234_567_890_123_456_789
    (swarm.path / "new").write_bytes(b"it goes on")
    assert (swarm.path / "new").read_bytes() == b"it goes on"
    swarm.revive(1, 2, 4)


def test_words_of_nobody_lead_to_nothing_and_say_whose_they_are(tmp_path: Path) -> None:
    with Practice(tmp_path / "swarm", suppliers=1, code="1/1") as practice:
        wrong = tmp_path / "words"
        practice.run("init", "--words-file", str(wrong), home=tmp_path / "another")
        verb = ("recover", practice.places()[0], "--words-file", str(wrong))
        done = practice.run(*verb, home=tmp_path / "new", ok=tuple(range(1, 256)))
        assert "The words lead to owner" in done.stderr
        assert not Home(tmp_path / "new").keys.exists()
        (tmp_path / "kept").mkdir(mode=0o700)
        (tmp_path / "kept" / "catalog.db").write_bytes(b"of a volume whose keys are elsewhere")
        done = practice.run(*verb, home=tmp_path / "kept", ok=tuple(range(1, 256)))
        assert "holds a volume already" in done.stderr


# -- kill -9 in the middle of shipping -------------------------------------------------------------------------

Shown = Mapping[str, object]
OFTEN = 20  # directories with an xattr each, in all more than a young volume's deltas may be
XATTR_BYTES = 60_000
MOST_CHANGES = 20
PATIENCE_S = 30
LATER_S = 2


@dataclass(frozen=True, slots=True)
class Death:
    """Where the mounting process is killed, and what comes after it."""

    point: str
    burns: bool

    def __str__(self) -> str:
        return f"{self.point}, {'burnt' if self.burns else 'mounted again'}"


FEW = (
    Death("before put delta", burns=True),
    Death("after put image", burns=False),
    Death("before put_head", burns=True),
)


class Doomed:
    """A volume whose mounting process dies where it is told to, and what it must show afterwards."""

    def __init__(self, practice: Practice, directory: Path) -> None:
        self._practice = practice
        self._order = directory / "order"
        self._directory = practice.path / "doomed"
        self._states: list[Shown] = [{}]  # from the last one that was said to be safe to the newest

    @contextmanager
    def mounted(self) -> Iterator[Child]:
        """The volume is mounted by a process that takes orders. It has ended afterwards."""
        with self._practice.doomed(self._order) as process:
            self._practice.wait_for_suppliers()
            yield process

    def change(self) -> None:
        """Change names, contents and metadata, durably here; so much that a snapshot is due."""
        place = self._directory
        place.mkdir(exist_ok=True)
        for name, length in (("large", 300_000), ("small", 200), (f"new {DICE.random()}", 5000)):
            content = DICE.randbytes(length)
            with (place / f".{name}").open("wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            (place / f".{name}").rename(place / name)
        for number in range(OFTEN):
            (place / f"d{number}").mkdir(exist_ok=True)
            os.setxattr(place / f"d{number}", "user.x", DICE.randbytes(XATTR_BYTES))
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        self._states.append(self._shown())

    def sync(self) -> None:
        self._practice.sync()
        del self._states[:-1]

    def die(self, process: Child, point: str) -> None:
        """Change things until the process dies on the way of that to the suppliers."""
        for _ in range(MOST_CHANGES):
            self.change()
            self._order.write_text(point)
            with suppress(BitdustError):
                self._practice.ask("sync", path="/", timeout=PATIENCE_S)
            with suppress(subprocess.TimeoutExpired):  # what is done beside, and what is let go, is later
                process.wait(LATER_S)
            if process.poll() is not None:
                break
            self._order.unlink(missing_ok=True)  # it dies while it syncs, and not while something is changed
        assert process.poll() == -signal.SIGKILL, f"{point} was not passed"
        wait_until("the home is free", lambda: holder(Home(self._practice.home)) is None)

    def check(self, death: Death) -> None:
        """All is there. A machine that burnt may have lost what was not safe."""
        shown, newest = self._shown(), self._states[-1]
        if death.burns:
            for name in shown.keys() | newest.keys():
                is_half_way = name.startswith(".")  # an editor was about to rename it
                is_known = is_half_way or any(shown.get(name) == state.get(name) for state in self._states)
                assert is_known, f"{death}: {name} is neither as it was safe nor as it was later"
        else:
            assert shown.keys() == newest.keys(), f"{death}: other names are there"
            assert [name for name in shown if shown[name] != newest[name]] == [], f"{death}: these have changed"
        self._states.append(shown)

    def _shown(self) -> Shown:
        """Everything that can be seen of the tree, but for times of directories."""
        found: dict[str, object] = {}
        for path in sorted(self._directory.iterdir()):
            status = path.lstat()
            if path.is_dir():
                found[path.name] = status.st_mode, os.getxattr(path, "user.x")
            else:
                found[path.name] = status.st_mode, status.st_mtime_ns, path.read_bytes()
        return found


def die_all(practice: Practice, directory: Path, deaths: Sequence[Death]) -> None:
    """Die each of these deaths, one after another, and see that all is there after each."""
    practice.umount()
    doomed = Doomed(practice, directory)
    for number, death in enumerate(deaths):
        with doomed.mounted() as process:
            if number:
                doomed.check(deaths[number - 1])
            doomed.change()
            doomed.sync()
            doomed.die(process, death.point)
        if death.burns:
            practice.burn()
            practice.recover(1 + number % 6)
    practice.mount()
    doomed.check(deaths[-1])


def test_tree_survives_deaths_in_the_middle_of_shipping_the_catalog(swarm: Practice, tmp_path: Path) -> None:
    die_all(swarm, tmp_path, FEW)


@pytest.mark.long
def test_tree_survives_a_death_at_every_named_point_of_shipping_the_catalog(swarm: Practice, tmp_path: Path) -> None:
    die_all(swarm, tmp_path, [Death(point, burns) for point in sorted(POINTS) for burns in (False, True)])


# -- liars: the last test, for it leaves them ------------------------------------------------------------------


def test_tree_comes_back_past_a_supplier_with_an_old_head_one_with_garbage_and_one_that_is_gone(
    swarm: Practice, tree: Path
) -> None:
    swarm.lie(1, "old")
    swarm.lie(2, "garbage")
    swarm.wait_for_suppliers()
    copy = swarm.path / "tree"
    for place in (tree, copy):  # after the snapshot
        (place / "abc.py").rename(place / "moved.py")
        (place / "holes").write_bytes(b"filled " * 100_000)
        (place / "a symlink").unlink()
        (place / "email" / "made").mkdir()
        (place / "email" / "made" / "later").write_bytes(b"too")
    run("rsync", "-aHAX", f"{tree}/", copy)  # times
    swarm.sync()
    assert swarm.status()["state"] == "safe"
    wait_until_at_rest(swarm, 4, 5, 6)
    swarm.kill_mount()
    swarm.burn()
    swarm.kill_supplier(3)
    said = swarm.recover(1)
    assert "confirmed by 3 of 6 suppliers" in said
    assert "4 of 6 suppliers answered" in said  # garbage is no answer
    swarm.mount()
    assert differences(tree, copy, read=False) == ""
    assert differences(tree / "email", copy / "email") == ""
    for name in ("moved.py", "holes", "a hard link"):
        assert (copy / name).read_bytes() == (tree / name).read_bytes()
