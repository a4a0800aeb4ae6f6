#!/usr/bin/env python3
"""Draw the table of a supplier's states (bitdustfs/core/standing.py) as the manual page bitdustfs-suppliers(7).

tools/draw_states.py          print the page
tools/draw_states.py --write  put it into man/
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from bitdustfs.core import grace  # noqa: E402
from bitdustfs.core.ending import LEAD_S  # noqa: E402
from bitdustfs.core.pace import READERS_SHARE, SHARE, URGENT_SHARE  # noqa: E402
from bitdustfs.core.standing import TABLE, Event, State  # noqa: E402
from bitdustfs.engine.monitor import FRUITLESS_S  # noqa: E402
from bitdustfs.engine.returns import PAGE as SHOWN_TOGETHER  # noqa: E402
from bitdustfs.engine.settling import FAR_S, SETTLE_S  # noqa: E402

PAGE = CHECKOUT / "man" / "bitdustfs-suppliers.7"

_HEAD = r""".\" bitdustfs - licence GPL-3.0-or-later
.\" Drawn by tools/draw_states.py from bitdustfs/core/standing.py: change that, and draw it again.
.TH BITDUSTFS-SUPPLIERS 7 2026-11-27 "bitdustfs 0.1.0" "bitdustfs manual"
.SH NAME
bitdustfs-suppliers \- the states of a supplier, and when it is replaced
.SH DESCRIPTION
The mounting process keeps one connection to every supplier and asks it for its room once a minute, or
three times in the wait that is configured, if that is more often. What it sees moves the supplier between these
states:
"""

_GRACE = r""".SH HOW LONG A SUPPLIER MAY STAY AWAY
Away is a supplier without a connection. Only time during which the mounting process was there to see it counts: not
that of a machine that slept, or was off, and none while fewer than half of the hired suppliers answer, and fewer than
half of them and the candidates together, because then it is more likely that this machine is cut off. Who was away
before that began, while others answered, is away all the same, as long as anybody answers. An absence goes on over a
restart.
.PP
When most have been silent for as long as we wait at least ({none:g} hours), nobody can tell whether what they hold is
there. Nobody is given up for that, but nothing is called safe or placed any more until they answer:
.B status
says degraded, and why.
.PP
The wait depends on how many fragments the worst block could still spare without the suppliers that do not answer:
.PP
.nf
none     {none:g} hours
one      {one:g} hours
more     {more:g} hours
.fi
.PP
With one or more to spare, a supplier that was away for long in the last {days} days is waited for {habit:g} times as
long as its longest absence, as far as that lies in these {days} days, if that is more. The key
.B patience
of the configuration replaces the three numbers by one; a practice swarm waits for 30 s.
.SH WHAT FOLLOWS
When a supplier is lost, a candidate that answers is hired, if fewer suppliers are hired than a block has fragments.
One that was hired, answers, and has taken nothing for {fruitless:g} minutes of what there is to take does not count,
so the next one is hired too.
The fragments that the lost one held are made again from others, without any key, or from chunks that are all on this
machine, each checked against the root that was noted when the block was made. Most urgent first: the blocks with the
fewest fragments to spare. Nobody erases anything: when a lost supplier comes back, it is asked for the names of all
that it has, and some fragments of each {page} show leaves that it could not foresee; then they count again. What it
does not name is lost. If one of those that are asked for is wrong, each of the others has to show some too. Where a
fragment is then held twice, one of the two is let go, after all the suppliers of its block have answered without a
break for the shortest of the waits above. If the block lacks another fragment before that, and all who could take it
hold some of the block, one of the two takes that in its place, once the other one has shown the same.
.PP
.B "bitdustfs rebuild \-\-dry\-run"
says what is made again now, and of each verdict the numbers that decided it.
.PP
While every block could still lose two fragments, this takes {share:.0%} of the time at most, as does an audit that
goes through all that a supplier holds; with fewer to spare, all of it. While somebody reads what is not on this
machine, it takes {readers:.0%}, or {urgent:.0%} for blocks that could not lose one fragment more.
.PP
A supplier that is leaving
.RB ( "bitdustfs suppliers leave" )
gets nothing new. Each fragment that it holds is acknowledged by another supplier before it is let go. When nothing is
left it is fired, and the next head is without it. If it stays away for too long meanwhile it is missing: what it
holds is made again like that of any lost one, and when it comes back it is not hired, but goes on leaving.
.SH WHEN A CONTRACT ENDS
As soon as the end of its contract is known and not more than {lead} days away (either side has given notice, or a
term runs out), a supplier leaves by itself, if the others can take what it holds. If they cannot, it stays hired, for
what is written meanwhile is better there than nowhere, until the end, when it takes nothing more.
What it holds counts until {grace} days after the end. From then on it may erase that to make room, so it does not
count any more, whether it is there or not: the supplier is missing, what can be made again elsewhere is, and what
cannot is called lost, though it can be read for as long as it is there.
.B bitdustfs status
says of each such supplier until when what it holds counts, what nobody takes, and what to do.
When the contract goes on after all
.RB ( "bitdustfs contracts renew" ),
the supplier stays, or is hired again, and what it shows counts again.
.PP
Dates are those of the clock on the wall. When that was set forward while the volume was mounted, or the machine
slept, nothing is done by a date for {settle} minutes; nor is it when the clock is more than {far} days ahead of
what it showed when the volume was mounted last. What may have been erased by that clock is not called safe meanwhile.
.PP
When a friend recovered on another machine, and that one has put itself in the place of the burnt one (his owner has
revoked it), the new one is hired under the old name. The old one is called NAME\-old and leaves; if it does not
answer, what it held is made again a minute or two later.
.PP
A head counts when more than half of the suppliers in its list have it, and more than half of the list before: of two,
both. So while one of two is silent nothing new is
.BR safe ,
and after a start nothing is drained or erased either. That ends by itself when the silent one is lost (after
.BR patience )
or was replaced by another machine of its owner: from then on those that are left are enough.
.SH SEE ALSO
.BR bitdustfs (1),
.BR bitdustfs-architecture (7),
.BR bitdustfs-glossary (7)
"""


def page() -> str:
    """The whole manual page, as roff."""
    hours = grace.HOUR_S
    patience = grace.Patience()
    tail = _GRACE.format(
        none=patience.at_none_s / hours,
        one=patience.at_one_s / hours,
        more=patience.else_s / hours,
        days=grace.MEMORY_DAYS,
        habit=grace.HABIT,
        fruitless=FRUITLESS_S / 60,
        page=SHOWN_TOGETHER,
        share=SHARE,
        readers=READERS_SHARE,
        urgent=URGENT_SHARE,
        lead=LEAD_S // grace.DAY_S,
        grace=grace.GRACE_S // grace.DAY_S,
        settle=int(SETTLE_S // 60),
        far=int(FAR_S // grace.DAY_S),
    )
    return _HEAD + _meanings(State) + _table() + _meanings(Event, title="EVENTS") + tail


def _table() -> str:
    """One line for each state: what each event makes of it."""
    width = max(len(state.value) for state in State) + 2
    widths = [max(len(event.value), *(len(s.value) for s in State)) + 2 for event in Event]
    lines = ["".ljust(width) + "".join(event.value.ljust(w) for event, w in zip(Event, widths, strict=True))]
    for state in State:
        cells = [TABLE[state].get(event) for event in Event]
        shown = [("-" if cell is None else "." if cell is state else cell.value) for cell in cells]
        lines.append(state.value.ljust(width) + "".join(s.ljust(w) for s, w in zip(shown, widths, strict=True)))
    body = "\n".join(line.rstrip() for line in lines).replace("-", "\\-")
    how = "A dot: the state stays. A dash: it cannot happen, and would be an error of the program."
    return f".SH STATES AND EVENTS\n.nf\n{body}\n.fi\n.PP\n{how}\n"


def _meanings(kind: type[State] | type[Event], *, title: str = "") -> str:
    """The comment beside each member, which is where its meaning is written."""
    source = inspect.getsource(kind)
    told = [f".SH {title}\n"] if title else []
    for member in kind:
        found = re.search(rf"^ *{member.name} = .*?  # (.*)$", source, re.MULTILINE)
        if found is None:
            raise SystemExit(f"{kind.__name__}.{member.name} has no comment that says what it means")
        told.append(f".TP\n.B {member.value}\n{found[1]}\n")
    return "".join(told)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
