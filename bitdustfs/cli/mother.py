"""The mother of daemons: a process that loads once what all of them need, and forks each of them.

    who starts them: starts the mother, with an order for each daemon -> reads an answer for each
    mother:          loads -> forks each -> tells what each said when it served, or how it ended -> ends
    daemon:          the verb that was ordered, in a session, with a log, a pid and a command line of its own

Seven suppliers that each load the same would take seven times as long, and as much memory. A fork copies one thread
and all locks as they are, so the mother starts no other thread, and does nothing beside this.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

import bitdustfs.cli.assemble_supplier
import bitdustfs.cli.logs
import bitdustfs.cli.serve
from bitdustfs.cli.main import main
from bitdustfs.cli.processes import Answer, Order
from bitdustfs.edges.process_name import name_process

_LOADED = (bitdustfs.cli.assemble_supplier, bitdustfs.cli.logs, bitdustfs.cli.serve)  # what a supplier needs


def bear(orders: list[Order]) -> None:
    """Fork a daemon for each order, and print an Answer for each when all have served or ended."""
    gc.freeze()  # or each daemon would copy all pages when it looks for garbage in them
    born: list[tuple[int, int]] = []
    for order in orders:
        receiving, sending = os.pipe()
        pid = os.fork()
        if not pid:
            for descriptor in (receiving, *(pipe for _, pipe in born)):
                os.close(descriptor)
            _be(order, sending)
        os.close(sending)
        born.append((pid, receiving))
    for pid, receiving in born:
        with open(receiving) as said:
            line = said.readline().strip()
        returncode = 0 if line else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(Answer(line, returncode).encoded(), flush=True)


def _be(order: Order, said: int) -> NoReturn:
    """Be the daemon that was ordered."""
    os.setsid()
    complaints = os.open(order.complaints, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, sys.stdout.fileno())
    os.dup2(complaints, sys.stderr.fileno())
    os.close(said)
    os.close(complaints)
    try:
        name_process(order.command)
    except OSError:  # people look for it by its command line: so it is started like any other, and loads all again
        os.execv(order.command[0], order.command)
    sys.argv[1:] = order.words
    main()


if __name__ == "__main__":
    bear([Order.decoded(word) for word in sys.argv[1:]])
