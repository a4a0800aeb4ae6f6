"""An internet for tests: hosts in network namespaces, each behind a link of its own to one router.

    with Internet(tmp_path) as internet:
        anna, ben = internet.host(), internet.host()
        ben.start("serve", "--listen", f"{ben.address}:4878")
        internet.cut(anna, ben)

Each host has a home, addresses of both families and a default route. Nothing is left behind, see `tests.net.inside`.
What a host mounts is seen at `Host.seen`, and by nobody else on this machine.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bitdustfs.edges.control import Args, ask
from bitdustfs.edges.home import Home

PATIENCE_S = 120  # what takes longer hangs, also on a busy machine
PORT = 4878
_ROOT = Path(__file__).resolve().parents[2]
_CUTS = """
table inet cables {
    set cut { type ifname . ifname; }
    set walled { type ifname . ifname; }
    chain forward {
        type filter hook forward priority 0
        iifname . oifname @cut drop
        iifname . oifname @walled meta l4proto tcp reject with tcp reset
        iifname . oifname @walled reject
    }
}
"""
_NOTHING_IN = """
flush ruleset
table inet wall {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
    }
}
"""


@dataclass(frozen=True)
class Done:
    """A program that ended."""

    words: Sequence[str]
    code: int
    out: str
    err: str


class Started:
    """A program that runs in a host."""

    def __init__(self, internet: Internet, pid: int, words: Sequence[str], out: Path, err: Path) -> None:
        self._internet = internet
        self.pid = pid  # inside
        self.words = words
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self) -> Done:
        """Wait until it ends."""
        code = self._internet.wait(self.pid, f"{' '.join(self.words)} does not end:\n{self.out}\n{self.err}")
        return Done(self.words, code, self.out, self.err)

    def send(self, number: signal.Signals) -> None:
        self._internet.router("kill", f"-{number}", str(self.pid))

    def said(self) -> str:
        """The first line that it prints; fails the test if it ends instead."""

        def has_said() -> bool:
            code = self._internet.ended(self.pid)
            assert code is None or "\n" in self.out, (
                f"{' '.join(self.words)} ended with {code}\n{self.out}\n{self.err}"
            )
            return "\n" in self.out

        wait_until(f"{' '.join(self.words)} says that it serves", has_said)
        return self.out.splitlines()[0]


class Internet:
    """The router, and what is behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hosts: list[Host] = []
        self._lans = set[str]()
        self._codes: dict[int, int] = {}
        self._started = 0
        self._replies = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.net.inside"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
        )
        try:
            self.inside = self._reply("inside")  # the number of the process inside, as seen from outside
            self.router("nft", "-f", "-", given=_CUTS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # it ends, and everything in it
        self._process.stdout.close()
        self._process.wait(PATIENCE_S)

    def host(self, name: str = "") -> Host:
        """Connect one more host."""
        host = Host(self, len(self.hosts) + 1, name)
        self.hosts.append(host)
        return host

    def lan(self, number: int) -> str:
        """A local network that hosts can enter: the name of its switch."""
        name = f"lan-{number}"
        if name not in self._lans:
            self.router("ip", "link", "add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
            self.router("ip", "link", "set", name, "up")
            self._lans.add(name)
        return name

    def cut(self, one: Host, other: Host) -> None:
        """Let nothing through between two hosts: nobody is told, packets vanish."""
        self._cables("add", "cut", one, other)

    def heal(self, one: Host, other: Host) -> None:
        """Undo `cut`."""
        self._cables("delete", "cut", one, other)

    def wall(self, one: Host, other: Host) -> None:
        """Let nothing through between two hosts: who sends something is told at once, and connections end."""
        self._cables("add", "walled", one, other)

    def unwall(self, one: Host, other: Host) -> None:
        """Undo `wall`."""
        self._cables("delete", "walled", one, other)

    def _cables(self, verb: str, which: str, one: Host, other: Host) -> None:
        ways = f"{one.cable} . {other.cable}, {other.cable} . {one.cable}"
        self.router("nft", f"{verb} element inet cables {which} {{ {ways} }}")

    def router(self, *words: str, given: str = "") -> Done:
        """Run a program on the router; fails the test unless it succeeds."""
        done = self.start(words, given=given).wait()
        assert done.code == 0, f"{' '.join(words)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def start(
        self, words: Sequence[str], *, host: Host | None = None, is_verb: bool = False, given: str = ""
    ) -> Started:
        """Start a program, or a verb of ours, on the router or in a host."""
        self._started += 1
        stem = self.directory / f"{self._started:03}"
        out, err, stdin = (stem.with_suffix(f".{what}") for what in ("out", "err", "in"))
        if given:
            stdin.write_text(given)
        order = {
            "host": host.name if host else "",
            "words": list(words),
            "is_verb": is_verb,
            "directory": str(host.directory if host else self.directory),
            "environment": host.environment if host else {},
            "given": str(stdin) if given else "",
            "out": str(out),
            "err": str(err),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._reply("started")
        out.touch()
        err.touch()
        return Started(self, pid, words, out, err)

    def ended(self, pid: int) -> int | None:
        """The exit code of a program inside, if it has ended."""
        while self._has_more(0):
            self._take()
        return self._codes.get(pid)

    def wait(self, pid: int, complaint: str) -> int:
        """Wait until a program inside ends. Returns its exit code."""
        end = time.monotonic() + PATIENCE_S
        while pid not in self._codes:
            assert self._has_more(end - time.monotonic()), complaint
            self._take()
        return self._codes.pop(pid)

    def _reply(self, what: str) -> int:
        while True:
            assert self._has_more(PATIENCE_S), "the internet does not answer"
            reply = self._take()
            if what in reply:
                return reply[what]

    def _has_more(self, wait_s: float) -> bool:
        assert self._process.stdout is not None
        return b"\n" in self._replies or bool(select.select([self._process.stdout], [], [], max(0.0, wait_s))[0])

    def _take(self) -> dict[str, int]:
        """Take one word of the process inside."""
        assert self._process.stdout is not None
        while b"\n" not in self._replies:
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, "the internet has ended"
            self._replies += more
        line, self._replies = self._replies.split(b"\n", 1)
        word: dict[str, int] = json.loads(line)
        if "ended" in word:
            self._codes[word["ended"]] = word["code"]
        return word


class Host:
    """A machine: `address` and `address6`, a link, a home, and what runs there."""

    def __init__(self, internet: Internet, number: int, name: str) -> None:
        self._internet = internet
        self.number = number
        self.name = name or f"host{number}"
        self.cable = f"to-{number}"  # the router's end
        self._moves = 0
        self._lan = 0  # the local network that it is in; 0: none but its own
        self.directory = internet.directory / self.name
        self.home = self.directory / "home"
        self.path = self.directory / "BitDust"  # as the host sees it
        self.seen = Path(f"/proc/{internet.inside}/root") / self.path.relative_to("/")
        self.directory.mkdir()
        self.path.mkdir()
        self.environment = {"BITDUSTFS_HOME": str(self.home), "HOME": str(self.directory)}
        router = f"netns add {self.name}\nlink add {self.cable} type veth peer name eth0 netns {self.name}\n"
        internet.router("ip", "-batch", "-", given=f"{router}link set {self.cable} up\n")
        self._ip("link set lo up", "link set eth0 up")
        self._settle()

    @property
    def address(self) -> str:
        return f"192.168.{self._lan}.{self.number + 1}" if self._lan else f"10.{77 + self._moves}.{self.number}.2"

    @property
    def address6(self) -> str:
        return f"fd77:{self._moves}:{self.number}::2"

    def move(self) -> None:
        """Take other addresses, as in another network. Nothing is left of the old ones."""
        self._leave()
        self._internet.router("ip", "link", "set", self.cable, "nomaster")
        self._lan = 0
        self._moves += 1
        self._settle()

    def enter(self, lan: int) -> None:
        """Be in a local network, 192.168.`lan`.0/24, where nobody can be reached but those who are in it too."""
        self._leave()
        self._internet.router("ip", "link", "set", self.cable, "master", self._internet.lan(lan))
        self._lan = lan
        self._ip(f"addr add {self.address}/24 dev eth0")

    def enter_bare(self, lan: int) -> None:
        """Be in a local network without any address but the one that the interface has given itself."""
        self._leave()
        self._internet.router("ip", "link", "set", self.cable, "master", self._internet.lan(lan))
        self._lan = 0

    def _leave(self) -> None:
        self._internet.router("ip", "addr", "flush", "dev", self.cable, "scope", "global")
        self._ip("addr flush dev eth0 scope global")

    def drop_inbound(self) -> None:
        """Drop all packets that come from elsewhere, but to connections that this host began."""
        self.exec("nft", "-f", "-", given=_NOTHING_IN)

    def unplug(self) -> None:
        """Pull the cable; the host sees that."""
        self._internet.router("ip", "link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put the cable back."""
        self._internet.router("ip", "link", "set", self.cable, "up")
        self._ip(f"route replace default via {self._gateway}", f"route replace ::/0 via {self._gateway6}")

    def exec(self, *words: str, given: str = "", ok: Sequence[int] = (0,)) -> Done:
        """Run a program here; fails the test unless it ends with one of these codes."""
        return self._check(self._internet.start(words, host=self, given=given).wait(), ok)

    def run(self, *words: str, given: str = "", ok: Sequence[int] = (0,)) -> Done:
        """Run a verb of bitdustfs here, for the home of this host."""
        started = self._internet.start(words, host=self, is_verb=True, given=given)
        return self._check(started.wait(), ok)

    def begin(self, *words: str) -> Started:
        """Start a verb of bitdustfs here, and go on."""
        return self._internet.start(words, host=self, is_verb=True)

    def start(self, *words: str) -> Started:
        """Start a verb that stays, and wait until it says that it serves."""
        started = self.begin(*words)
        started.said()
        return started

    def init(self) -> str:
        """Make a volume here. Returns the id of its owner."""
        self.run("init", "--words-file", str(self.directory / "words"))
        return self.run("id", "--owner").out.strip()

    def serve(self, *customers: str, size: str = "1G") -> str:
        """Keep fragments for these owners, on all addresses. Returns NODEID@ADDR:PORT."""
        allows = [f"--allow={customer}:{size}" for customer in customers]
        return self.start("serve", "-f", "--listen", f"[::]:{PORT}", "--donate", size, *allows).said()

    def mount(self, *options: str) -> Started:
        """Mount the volume of this host at `path`."""
        return self.start("mount", "-f", *options, "--", str(self.path))

    def ask(self, verb: str, **args: object) -> Args:
        """Ask the process that serves the home of this host."""
        return ask(Home(self.home).control, verb, args, silence_s=PATIENCE_S)

    def online(self) -> set[str]:
        """The labels of the suppliers that answer the mount of this host."""
        return {row["label"] for row in self.ask("status", path="/")["suppliers"] if row["answers"]}

    def sync(self) -> str:
        """Bring everything to suppliers. Returns the state that was reached."""
        return str(self.ask("sync", timeout=None)["state"])

    @property
    def _gateway(self) -> str:
        return self.address.removesuffix("2") + "1"

    @property
    def _gateway6(self) -> str:
        return self.address6.removesuffix("2") + "1"

    def _settle(self) -> None:
        """Give both ends of the cable the addresses of the network that the host is in now."""
        ends = f"addr add {self._gateway}/24 dev {self.cable}\naddr add {self._gateway6}/64 dev {self.cable} nodad\n"
        self._internet.router("ip", "-batch", "-", given=ends)
        self._ip(
            f"addr add {self.address}/24 dev eth0",
            f"addr add {self.address6}/64 dev eth0 nodad",
            f"route replace default via {self._gateway}",
            f"route replace ::/0 via {self._gateway6}",
        )

    def _ip(self, *lines: str) -> None:
        self._internet.router("ip", "-n", self.name, "-batch", "-", given="\n".join(lines) + "\n")

    def _check(self, done: Done, ok: Sequence[int]) -> Done:
        assert done.code in ok, f"{self.name}: {' '.join(done.words)} ended with {done.code}\n{done.out}\n{done.err}"
        return done


def wait_until(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Poll until a state is reached; fail the test with `what` if it is not in time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"after {patience_s:g} s still not: {what}"
        time.sleep(0.05)
