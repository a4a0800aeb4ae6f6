"""The standing of a supplier: how we and it relate, as one table of states and events.

`after` is the table. It is code, and its picture in `man/bitdustfs-suppliers.7` is drawn from it. What must outlive
the process (`Standing`) is in the catalog; whether a supplier answers now is found out anew after each start.

Nothing here erases: a supplier that is lost keeps what it has; what it shows of that when it is back counts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from bitdustfs.model import Standing


class State(Enum):
    """What a supplier is to us now."""

    CANDIDATE = "candidate"  # agreed to keep something for us; gets nothing until it is hired
    HIRED = "hired"  # taken on; has not answered since this process began
    ONLINE = "online"  # answers
    SUSPECT = "suspect"  # does not answer since a moment ago
    OFFLINE = "offline"  # does not answer; what it holds still counts
    LOST = "lost"  # stayed away longer than we wait: what it holds does not count, and is made again elsewhere
    LEAVING = "leaving"  # gets nothing new, and what it holds is brought to others, until it is given up
    MISSING = "missing"  # was leaving, and is lost: when it is back, it goes on leaving, unless it may erase all
    FIRED = "fired"  # given up

    __hash__ = object.__hash__  # there is one of each: half the time of a look at all suppliers was to hash the names


class Event(Enum):
    """What happens to a supplier."""

    HIRE = "hire"  # by the person, by itself in the place of one that is lost, or as its contract goes on after all
    ANSWER = "answer"  # a connection on which it told its room
    SILENCE = "silence"  # the connection ended
    ABSENCE = "absence"  # silent for longer than a ping takes
    PATIENCE_ENDS = "patience ends"  # absent for longer than the grace, or it may erase what it has
    LEAVE = "leave"  # by the person, or as its contract ends: to be given up, with no moment of fewer fragments
    EMPTY = "empty"  # what it held is with others now
    FIRE = "fire"  # by the person, or as its contract has ended and nothing there counts, whatever it holds

    __hash__ = object.__hash__


_S, _E = State, Event
TABLE: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        _S.CANDIDATE: {
            _E.HIRE: _S.HIRED,
            _E.ANSWER: _S.CANDIDATE,
            _E.SILENCE: _S.CANDIDATE,
            _E.LEAVE: _S.FIRED,
            _E.FIRE: _S.FIRED,
        },
        _S.HIRED: {
            _E.HIRE: _S.HIRED,
            _E.ANSWER: _S.ONLINE,
            _E.ABSENCE: _S.OFFLINE,
            _E.LEAVE: _S.LEAVING,
            _E.FIRE: _S.FIRED,
        },
        _S.ONLINE: {
            _E.HIRE: _S.ONLINE,
            _E.ANSWER: _S.ONLINE,
            _E.SILENCE: _S.SUSPECT,
            _E.LEAVE: _S.LEAVING,
            _E.FIRE: _S.FIRED,
        },
        _S.SUSPECT: {
            _E.HIRE: _S.SUSPECT,
            _E.ANSWER: _S.ONLINE,
            _E.ABSENCE: _S.OFFLINE,
            _E.LEAVE: _S.LEAVING,
            _E.FIRE: _S.FIRED,
        },
        _S.OFFLINE: {
            _E.HIRE: _S.OFFLINE,
            _E.ANSWER: _S.ONLINE,
            _E.PATIENCE_ENDS: _S.LOST,
            _E.LEAVE: _S.LEAVING,
            _E.FIRE: _S.FIRED,
        },
        _S.LOST: {_E.HIRE: _S.HIRED, _E.ANSWER: _S.ONLINE, _E.LEAVE: _S.FIRED, _E.FIRE: _S.FIRED},
        _S.LEAVING: {
            _E.HIRE: _S.HIRED,
            _E.ANSWER: _S.LEAVING,
            _E.SILENCE: _S.LEAVING,
            _E.PATIENCE_ENDS: _S.MISSING,
            _E.LEAVE: _S.LEAVING,
            _E.EMPTY: _S.FIRED,
            _E.FIRE: _S.FIRED,
        },
        _S.MISSING: {_E.HIRE: _S.HIRED, _E.ANSWER: _S.LEAVING, _E.LEAVE: _S.FIRED, _E.FIRE: _S.FIRED},
        _S.FIRED: {
            _E.HIRE: _S.HIRED,
            _E.ANSWER: _S.FIRED,
            _E.SILENCE: _S.FIRED,
            _E.LEAVE: _S.FIRED,
            _E.FIRE: _S.FIRED,
        },
    }
)

_KEPT: Final[Mapping[State, Standing]] = MappingProxyType(
    {
        _S.CANDIDATE: Standing.CANDIDATE,
        _S.HIRED: Standing.HIRED,
        _S.ONLINE: Standing.HIRED,
        _S.SUSPECT: Standing.HIRED,
        _S.OFFLINE: Standing.HIRED,
        _S.LOST: Standing.LOST,
        _S.LEAVING: Standing.LEAVING,
        _S.MISSING: Standing.MISSING,
        _S.FIRED: Standing.FIRED,
    }
)


def after(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        ValueError: this cannot happen to a supplier in that state: a fault of the program.
    """
    try:
        return TABLE[state][event]
    except KeyError:
        raise ValueError(f"a supplier that is {state.value} cannot meet '{event.value}'") from None


def kept(state: State) -> Standing:
    """What the catalog keeps of a state."""
    return _KEPT[state]


def at_start(standing: Standing) -> State:
    """The state of a supplier of which only the catalog's word is known yet."""
    return State(standing.name.lower())
