"""Which trees a mount may show after a crash, by what it was asked and what it promised.

`story` turns a trace into the list of changes and the promises; `fault_of` says what is wrong with a tree that was
found.

The rules, for a volume that made `n` changes one after another:

* The names and kinds are those after the first `p` changes, for one p. It is at least the number of changes that
  were answered before a successful fsync (of anything) began, and, when only the process died, before a commit
  began that ended. So names never go back behind a promise, and never show a later change without an earlier one.
* A file *without a power loss* has the size it had after change p; each byte is the one of then, or one that was
  written there later.
* A file *after a power loss* has, at each place, a byte that was there at some time since its last promise: its
  last successful fsync, or the rename that put it over another file. Its size lies between the least and the most
  since then. So a file that was never synced may be short or empty, but shows nothing that was never there.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.crash.trace import Remark

Found = Mapping[str, "bytes | str | None"]  # path -> content; target of a symlink; None for a directory
ROOT = 1
EXCHANGE = 2  # renameat2(2)
CHANGES = frozenset({"make", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "write", "resize"})
_STEP = 4096


@dataclass(slots=True, eq=False)
class Node:
    """A file, symlink or directory, and all that it ever contained."""

    kind: str  # "file", "directory", "symlink", "other"
    target: str = ""
    contents: list[tuple[int, bytes]] = field(default_factory=lambda: [(0, b"")])  # (number of the change, content)
    settled: list[int] = field(default_factory=list)  # changes that make it durable first: it replaces another

    def at(self, change: int) -> int:
        """The index of its content after that many changes."""
        found = 0
        for index, (number, _) in enumerate(self.contents):
            if number <= change:
                found = index
        return found


@dataclass(slots=True, eq=False)
class Change:
    """One change that was asked for. `number` counts from 1."""

    number: int
    what: str
    facts: Mapping[str, object]
    content: bytes
    began: int  # turn of the remark
    node: Node | None = None
    ended: int | None = None


@dataclass(slots=True)
class Story:
    """What happened, and what was promised."""

    changes: list[Change]
    committed: int  # changes that survive the death of the process
    promised: int  # changes whose names survive a power loss
    safe: dict[Node, int]  # number of the last change of its content that survives a power loss
    root: Node


def story(remarks: Iterable[Remark]) -> Story:
    """Read what a trace tells. Changes that failed are left out."""
    return _Teller(list(remarks)).tell()


def fault_of(found: Found, told: Story, *, power_loss: bool) -> str | None:
    """Say how a tree differs from everything that it may be; None if it is one of those."""
    least = told.promised if power_loss else max(told.promised, told.committed)
    nearest = f"the names are those of no moment from change {least} of {len(told.changes)} on: {sorted(found)}"
    tree = _Tree(told.root)
    for number in range(len(told.changes) + 1):
        if number:
            tree.apply(told.changes[number - 1])
        if number < least:
            continue
        paths = tree.paths()
        if paths.keys() != found.keys():
            continue
        fault = next(
            (f for path, node in paths.items() if (f := _differs(path, node, found[path], told, number, power_loss))),
            None,
        )
        if fault is None:
            return None
        nearest = f"after change {number} of {len(told.changes)} (at least {least} must be there): {fault}"
    return nearest


# --- contents ---------------------------------------------------------------------------------------------


def _differs(
    path: str, node: Node, there: bytes | str | None, told: Story, number: int, power_loss: bool
) -> str | None:
    match node.kind, there:
        case "directory", None:
            return None
        case "symlink", str() if there == node.target:
            return None
        case "file", bytes():
            return _content_differs(path, node, there, told, number, power_loss)
        case "other", _:
            return None
    return f"{path} is no {node.kind} as it was, but {there!r:.300}"


def _content_differs(path: str, node: Node, there: bytes, told: Story, number: int, power_loss: bool) -> str | None:
    oldest = node.at(number)
    if power_loss:
        settled = (change for change in node.settled if change <= number)
        oldest = node.at(max((told.safe.get(node, 0), *settled)))
    allowed = [content for _, content in node.contents[oldest:]]
    if power_loss:
        least, most = min(map(len, allowed)), max(map(len, allowed))
    else:
        least = most = len(allowed[0])
    if not least <= len(there) <= most:
        return f"{path} has {len(there)} bytes, and not {least} to {most}"
    for start in range(0, len(there), _STEP):
        piece = there[start : start + _STEP]
        if any(content[start : start + len(piece)] == piece for content in allowed):
            continue
        for at, byte in enumerate(piece, start):
            if all(at >= len(content) or content[at] != byte for content in allowed):
                return (
                    f"byte {at} of {len(there)} of {path} is {byte:#x}, which was never there since its last promise"
                )
    return None


# --- names ------------------------------------------------------------------------------------------------


class _Tree:
    """Names after some changes. They are looked up by directory node, so moving one moves what is below."""

    def __init__(self, root: Node) -> None:
        self._names: dict[Node, dict[str, Node]] = {}
        self._paths: dict[str, Node] | None = None
        self._root = root

    def apply(self, change: Change) -> None:
        facts, node = change.facts, change.node
        if change.what in ("write", "resize"):
            return
        self._paths = None
        place = self.of(facts["parent"])
        name = str(facts["name"])
        match change.what:
            case "make" | "mkdir" | "symlink" | "link":
                assert node is not None
                place[name] = node
            case "unlink" | "rmdir":
                place.pop(name, None)
            case "rename":
                target, new_name = self.of(facts["new_parent"]), str(facts["new_name"])
                moved = place.pop(name)
                if facts["flags"] == EXCHANGE:
                    place[name] = target[new_name]
                elif target.get(new_name) is moved:
                    place[name] = moved  # two names of one file: both stay
                target[new_name] = moved

    def paths(self) -> Mapping[str, Node]:
        if self._paths is None:
            self._paths = dict(self._walk(self._root, ""))
        return self._paths

    def of(self, directory: object) -> dict[str, Node]:
        """The names in a directory."""
        assert isinstance(directory, Node)
        return self._names.setdefault(directory, {})

    def _walk(self, directory: Node, path: str) -> Iterator[tuple[str, Node]]:
        for name, node in self._names.get(directory, {}).items():
            yield path + name, node
            if node.kind == "directory":
                yield from self._walk(node, f"{path}{name}/")


class _Teller:
    """Goes through the remarks once."""

    def __init__(self, remarks: list[Remark]) -> None:
        self._remarks = remarks
        self._ends = {(r.what, r.number): (turn, r) for turn, r in enumerate(remarks) if r.word == "end"}
        self._root = Node("directory")
        self._nodes: dict[object, Node] = {ROOT: self._root}  # by inode number
        self._names = _Tree(self._root)
        self._changes: list[Change] = []
        self._told = Story(self._changes, 0, 0, {}, self._root)

    def tell(self) -> Story:
        for turn, remark in enumerate(self._remarks):
            if remark.word != "begin":
                continue
            end, facts = self._ends.get((remark.what, remark.number), (None, None))
            if facts is not None and "errno" in facts.facts:
                continue
            if remark.what in CHANGES:
                self._change(remark, turn, end, facts)
            elif end is not None:
                self._promise(remark, turn)
        return self._told

    def _change(self, remark: Remark, turn: int, end: int | None, answer: Remark | None) -> None:
        facts = dict(remark.facts)
        for key in ("parent", "new_parent"):
            if key in facts:
                facts[key] = self._nodes[facts[key]]
        for key in ("name", "new_name"):
            if key in facts:
                facts[key] = bytes.fromhex(str(facts[key])).decode("utf-8", "surrogateescape")
        change = Change(len(self._changes) + 1, remark.what, facts, remark.content, turn, ended=end)
        change.node = self._node_of(change, remark, answer)
        if remark.what == "rename" and not self._settles(change):
            return
        self._changes.append(change)
        self._names.apply(change)

    def _node_of(self, change: Change, remark: Remark, answer: Remark | None) -> Node | None:
        match remark.what:
            case "make" | "mkdir" | "symlink":
                kind = {"make": "file", "mkdir": "directory", "symlink": "symlink"}[remark.what]
                mode = remark.facts.get("mode")
                if isinstance(mode, int) and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    kind = "other"
                node = Node(kind, target=remark.content.decode("utf-8", "surrogateescape"))
                if answer is not None:
                    self._nodes[answer.facts["node"]] = node
                return node
            case "link":
                return self._nodes[remark.facts["node"]]
            case "write" | "resize":
                node = self._nodes[remark.facts["node"]]
                node.contents.append((change.number, _changed(node.contents[-1][1], remark)))
                return node
        return None

    def _settles(self, change: Change) -> bool:
        """Note what a rename over something promises. False: it is not done, for there is nothing to move."""
        source = self._names.of(change.facts["parent"]).get(str(change.facts["name"]))
        target = self._names.of(change.facts["new_parent"]).get(str(change.facts["new_name"]))
        if source is not None and target is not None and source is not target:
            source.settled.append(change.number)
            if change.facts["flags"] == EXCHANGE:
                target.settled.append(change.number)
        return source is not None

    def _promise(self, remark: Remark, turn: int) -> None:
        open_ones = (c.number for c in self._changes if c.ended is None or c.ended >= turn)
        done = min(open_ones, default=len(self._changes) + 1) - 1
        match remark.what:
            case "commit":
                self._told.committed = done
            case "fsync":
                self._told.promised = self._told.committed = done
                node = self._nodes[remark.facts["node"]]
                self._told.safe[node] = done
            case "fsyncdir":
                self._told.promised = self._told.committed = done


def _changed(content: bytes, remark: Remark) -> bytes:
    if remark.what == "resize":
        size = int(str(remark.facts["size"]))
        return content[:size].ljust(size, b"\0")
    at = int(str(remark.facts["at"]))
    return content[:at].ljust(at, b"\0") + remark.content + content[at + len(remark.content) :]
