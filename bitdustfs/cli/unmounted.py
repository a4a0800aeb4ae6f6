"""What verbs do for a home that no process serves: they hire, join and rename in its catalog themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache

import trio

from bitdustfs.cli.assemble_supplier import unlock
from bitdustfs.cli.befriending import Friends, JoinWish
from bitdustfs.cli.hiring import HireWish, agree, told_of
from bitdustfs.cli.home_catalog import open_catalog
from bitdustfs.core.contract import Contract
from bitdustfs.core.report import HireReport, JoinReport
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.own_address import dialable
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer, join_address, listening, split_address
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.handler import RefuseAll
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BitdustError


async def hire_unmounted(home: Home, wishes: Sequence[HireWish]) -> list[HireReport]:
    """Hire suppliers for a home that no process serves. One after another: the code goes by their number."""
    identity, secrets = unlock(home)
    with open_catalog(home, secrets, lambda _hired: None) as (catalog, _code):
        wall, entropy = SystemWall(), SystemEntropy()
        clerk = Clerk(identity, DiskContracts(home.contracts), crunch=ThreadCrunch(1), wall=wall)
        suppliers = Suppliers(
            identity, TcpDialer(identity.key), catalog.suppliers(), entropy=entropy, wall=wall, clerk=clerk
        )
        told = []
        for wish in wishes:
            row = await agree(suppliers, catalog, wish)
            catalog.commit()
            await catalog.harden()
            told.append(told_of(row))
        return told


@contextmanager
def unmounted_friends(home: Home) -> Iterator[Friends]:
    """The friends of a home that no process serves."""
    identity, secrets = unlock(home)
    with open_catalog(home, secrets, lambda _hired: None) as (catalog, *_):

        async def commit() -> None:
            catalog.commit()
            await catalog.harden()

        @cache
        def clerk() -> Clerk:
            return Clerk(identity, DiskContracts(home.contracts), crunch=ThreadCrunch(1), wall=SystemWall())

        async def keep(signed: Contract) -> None:
            sides = signed.terms.first, signed.terms.second
            await clerk().keep(next(each.owner for each in sides if each.owner != identity.owner), signed)

        yield Friends(home, identity, catalog, commit=commit, clerk=clerk, keep=keep)


async def join_unmounted(home: Home, asked: JoinWish, listen: str) -> JoinReport:
    """Join by an invitation, for a home that no process serves.

    Args:
        listen: ADDR:PORT; waited at meanwhile, so that the friend's machine can try to dial this one. "": nowhere.
    """
    identity, _secrets = unlock(home)
    with unmounted_friends(home) as friends:
        async with AsyncExitStack() as stack:
            address = ""
            if listen:
                listener = await stack.enter_async_context(listening(listen, identity.key))
                host, port = split_address(listener.address)
                address = join_address(dialable(host), port)
                nursery = await stack.enter_async_context(trio.open_nursery())
                stack.callback(nursery.cancel_scope.cancel)
                reception = Reception(identity, RefuseAll(), knows=lambda _owner: False)
                nursery.start_soon(reception.run, listener)
            failed: BitdustError | None = None
            try:
                return await friends.join(TcpDialer(identity.key), asked, address)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
        assert failed is not None
        raise failed
