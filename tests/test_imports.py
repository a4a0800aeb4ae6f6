"""The import rule of DESIGN.md, section 3, read from the source.

errors ← model ← core, ports ← engine ← edges, testing ← cli; no cycle; no import inside a function outside `cli`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from bitdustfs.cli.main import VERB_MODULES

ROOT = Path(__file__).resolve().parents[1] / "bitdustfs"
MODULES: Mapping[str, Path] = {
    ".".join(("bitdustfs", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
MAY_IMPORT: Mapping[str, set[str]] = {
    "": set(),
    "errors": set(),
    "model": {"errors"},
    "ports": {"errors", "model"},
    "core": {"errors", "model"},
    "engine": {"errors", "model", "ports", "core"},
    "edges": {"errors", "model", "ports", "core", "engine", "testing"},
    "testing": {"errors", "model", "ports", "core", "engine", "edges"},
    "cli": {"errors", "model", "ports", "core", "engine", "edges", "testing"},
}
ONLY_IN = {
    "pyfuse3": {"bitdustfs.edges.fuse"},
    "zfec": {"bitdustfs.core.erasure"},
    "cffi": {"bitdustfs.core.galois", "bitdustfs.core.uncleared"},
    "kademlia": {"bitdustfs.edges.dht_node", "bitdustfs.edges.dht_protocol", "bitdustfs.edges.dht_table"},
    "zeroconf": {"bitdustfs.edges.lan"},
}
IMPURE = {"time", "datetime", "random", "secrets", "os", "pathlib", "socket", "ssl", "subprocess", "threading"} | {
    "logging",
    "trio",
    "asyncio",
    "apsw",
}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module, however deep. Their expressions, which are most of a tree, hold no import."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, part, None)
            left += below if isinstance(below, list) else []


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """All modules that an import statement anywhere in the tree names, ours as far down as they are modules."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module} has a relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module


def tier(module: str) -> str:
    return module.removeprefix("bitdustfs").removeprefix(".").partition(".")[0]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(imports_of(module, tree_of(module)))


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name in MODULES}


def test_module_imports_only_what_its_tier_may() -> None:
    allowed = {module: MAY_IMPORT[tier(module)] | {tier(module), ""} for module in MODULES}
    assert [(module, name) for module in MODULES for name in ours(module) if tier(name) not in allowed[module]] == []


def test_module_imports_at_its_top_only() -> None:
    inner = []
    for module in (module for module in MODULES if tier(module) != "cli"):
        tree = tree_of(module)
        nodes = (node for node in statements(tree) if isinstance(node, ast.Import | ast.ImportFrom))
        inner += [f"{MODULES[module]}:{node.lineno}" for node in nodes if node not in tree.body]
    assert inner == []


def test_modules_import_each_other_without_a_cycle() -> None:
    TopologicalSorter({module: ours(module) - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("library", ONLY_IN)
def test_foreign_library_is_imported_by_its_modules_only(library: str) -> None:
    users = {m for m in MODULES if any(n.partition(".")[0] == library for n in imports(m))}
    assert users <= ONLY_IN[library]


def test_core_imports_no_clock_no_dice_no_disk_and_no_network() -> None:
    core = [module for module in MODULES if tier(module) == "core"]
    found = [(module, name) for module in core for name in imports(module) if name.partition(".")[0] in IMPURE]
    assert core and found == []


def loaded_with(module: str) -> set[str]:
    """Our modules that are loaded as soon as this one is: what is imported inside functions comes later, if ever."""
    seen, left = set[str](), [module]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += [each for each in imports_of(name, _at_top(tree_of(name))) if each in MODULES]
    return seen


def _at_top(tree: ast.Module) -> ast.Module:
    kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.Module(body=kept, type_ignores=[])


def test_supplier_loads_nothing_of_a_mount() -> None:
    loaded = loaded_with("bitdustfs.cli.mother") | loaded_with("bitdustfs.cli.main")
    loaded |= set[str]().union(*(loaded_with(f"bitdustfs.cli.{module}") for module in VERB_MODULES))
    assert "bitdustfs.edges.shelf_disk" in loaded
    foreign = {name.partition(".")[0] for module in loaded for name in imports_of(module, _at_top(tree_of(module)))}
    assert foreign & {"apsw", "pyfuse3", "zfec", "rich"} == set()
