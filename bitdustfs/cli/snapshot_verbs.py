"""What a mount answers when snapshots of its volume are asked for."""

from __future__ import annotations

from collections.abc import Mapping

from bitdustfs.core.report import SnapshotMade, SnapshotReport, SnapshotsReport
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.engine.node import Node
from bitdustfs.model import SnapshotKind

_LINES = 200  # of a comparison in one step
NOW = "now"


def snapshot_verbs(node: Node) -> Mapping[str, Handler]:
    """The handlers, by the names of their requests."""

    async def create(args: Args, _report: Report) -> Mapping[str, object]:
        made, left = await node.snapshots.create(args.get("name"), float(args["wait_s"]))
        return {**SnapshotMade(name=made.name, files_before=left)}

    async def list_all(_args: Args, _report: Report) -> Mapping[str, object]:
        held = await node.snapshots.measure()
        shown = [
            SnapshotReport(
                name=each.name,
                made_s=each.made_ns / 1e9,
                automatic=each.kind is SnapshotKind.BY_ITSELF,
                alone_bytes=held.runs.get((each.generation, each.generation), 0),
            )
            for each in node.snapshots.all()
        ]
        return {**SnapshotsReport(snapshots=shown, held_bytes=held.total, fork_bytes=held.fork_bytes)}

    async def delete(args: Args, _report: Report) -> Mapping[str, object]:
        gone = await node.snapshots.delete([str(name) for name in args["names"]], args.get("to"))
        return {"names": [each.name for each in gone]}

    async def diff(args: Args, report: Report) -> Mapping[str, object]:
        one, two = (None if name == NOW else str(name) for name in (args["one"], args["two"]))
        lines: list[str] = []
        count = 0
        async for each in node.snapshots.differences(one, two):
            count += 1
            lines.append(f"{each.change.value} {each.path.decode('utf-8', 'surrogateescape')}")
            if len(lines) == _LINES:
                await report({"lines": lines})
                lines = []
        await report({"lines": lines})
        return {"count": count}

    return {"snapshot-create": create, "snapshot-list": list_all, "snapshot-delete": delete, "snapshot-diff": diff}
