"""What a mount answers when other states of its volume are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import trio

from bitdustfs.core.report import ForkReport, ForksReport
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.engine.differences import Change
from bitdustfs.engine.fork_notes import Fork
from bitdustfs.engine.forks import Unread
from bitdustfs.engine.node import Node
from bitdustfs.errors import Unavailable
from bitdustfs.model import Snapshot

_LINES = 200  # of a comparison in one step
_WAIT_S = 60.0  # for the head that goes over both lines


def fork_verbs(node: Node) -> Mapping[str, Handler]:
    """The handlers, by the names of their requests."""

    async def told(snapshot: Snapshot, fork: Fork) -> ForkReport:
        counts: Counter[Change] = Counter()
        async for each in node.forks.differences(snapshot):
            counts[each.change] += 1
        return ForkReport(
            name=snapshot.name,
            version=fork.version,
            node=fork.node.hex(),
            time_s=fork.time_s,
            came=counts[Change.CAME],
            went=counts[Change.WENT],
            changed=counts[Change.CONTENT] + counts[Change.ATTRIBUTES],
            shown_by=[row.label for row in node.forks.shown_by(fork.links)],
            answers=node.forks.is_answering(node.forks.shown_by(fork.links)),
            unreadable="",
        )

    def told_unread(name: str, unread: Unread) -> ForkReport:
        head = unread.found.head
        answering, named = node.forks.answering(unread)
        return ForkReport(
            name=name,
            version=head.version,
            node=head.signer.node.hex(),
            time_s=unread.found.content.time_s,
            came=0,
            went=0,
            changed=0,
            shown_by=[row.label for row in node.forks.shown_by(head.link)],
            answers=node.forks.is_answering(node.forks.shown_by(head.link)),
            unreadable=f"{unread.why} ({answering} of the {named} suppliers that it names answer)",
        )

    async def show(_args: Args, _report: Report) -> Mapping[str, object]:
        content = node.publisher.content
        return {
            **ForksReport(
                version=node.publisher.version,
                node=node.forks.own_node.hex(),
                time_s=content.time_s if content is not None else 0,
                forks=[
                    *[await told(snapshot, fork) for snapshot, fork in node.forks.all()],
                    *[told_unread(*each) for each in node.forks.unreadable().items()],
                ],
            )
        }

    async def diff(args: Args, report: Report) -> Mapping[str, object]:
        snapshot, _fork = node.forks.find(str(args["name"]))
        lines: list[str] = []
        count = 0
        async for each in node.forks.differences(snapshot):
            count += 1
            lines.append(f"{each.change.value} {each.path.decode('utf-8', 'surrogateescape')}")
            if len(lines) == _LINES:
                await report({"lines": lines})
                lines = []
        await report({"lines": lines})
        return {"count": count}

    async def is_safe(unless: Callable[[], bool] = lambda: False) -> bool:
        with trio.move_on_after(_WAIT_S):
            await node.replica.make_safe(unless=unless)
            return True
        return False

    async def resolve(args: Args, _report: Report) -> Mapping[str, object]:
        snapshot = await node.forks.resolve(str(args["name"]))
        safe = await is_safe(unless=lambda: node.forks.has_gone_on(snapshot))
        if node.forks.has_gone_on(snapshot):
            raise Unavailable(
                what="the other machine has gone on with its state, which lies beside the mounted one again, "
                "as it is now: look at it, and choose again"
            )
        return {"name": snapshot.name, "is_safe": safe}

    async def let_be(args: Args, _report: Report) -> Mapping[str, object]:
        await node.forks.let_be(str(args["name"]))
        return {"name": "", "is_safe": await is_safe()}

    return {"forks": show, "fork-diff": diff, "resolve": resolve, "let-fork-be": let_be}
