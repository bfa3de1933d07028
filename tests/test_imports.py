"""Imports go one way, and never round in a circle.

Every `import` statement counts alike: at the head of a file, inside a function, or only for the type checker. A circle
that is hidden in a function is still a circle: neither side can be read, tested or moved without the other. Names that
a program puts together (`import_module(...)`) are not seen, and neither is what a package's `__init__` brings along.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
# The floors of the house. A package may import from floors below its own and from its neighbors.
FLOORS = (
    ("nl_course", "moved"),
    (
        "errors",
        "files",
        "limits",
        "manifest",
        "newton_schulz",
        "notebooks",
        "progress",
        "renamed",
        "roles",
        "seeding",
        "tensor_files",
    ),
    ("memories", "scaling", "tasks"),
    ("model", "presets", "optimizers"),
    ("nested", "official", "family"),
    ("training",),
    ("record", "views", "exercises", "suite"),
    ("export", "benches", "app"),
    ("__main__",),
)
FLOOR_OF = {package: number for number, packages in enumerate(FLOORS) for package in packages}


def sources() -> dict[str, str]:
    """Every module of the package by its dotted name, as text."""
    texts = {}
    for path in sorted((ROOT / "nl_course").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        texts[name] = path.read_text(encoding="utf-8")
    return texts


def import_graph(texts: Mapping[str, str]) -> nx.DiGraph:
    """An arrow from each module to every other one that it imports."""
    graph = nx.DiGraph()
    for name, text in texts.items():
        graph.add_node(name)
        graph.add_edges_from((name, imported) for imported in imports(text, texts) if imported != name)
    return graph


def imports(text: str, known: Mapping[str, str]) -> Iterator[str]:
    """The modules of the package that a module's text imports: `from a import b` is of a.b where that is a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"an import by dots: {ast.unparse(node)}"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in full if node.module in known)


def package_of(module: str) -> str:
    """The package at the top that a module belongs to: `memories` of `nl_course.memories.ttt.layer`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def subpackage_of(module: str) -> str:
    """The same, one level deeper within the memories: `memories.ttt`."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1:2] == ["memories"] and len(parts) > 3 else module


def upward(graph: nx.DiGraph) -> set[tuple[str, str]]:
    """The imports from a floor above."""
    return {(a, b) for a, b in graph.edges if FLOOR_OF[package_of(a)] < FLOOR_OF[package_of(b)]}


def circles(graph: nx.DiGraph) -> set[frozenset[str]]:
    """Groups of modules, of the memories' packages, and of top packages, that import each other round."""
    found = set()
    for group in (str, subpackage_of, package_of):
        arrows = {(group(a), group(b)) for a, b in graph.edges}
        joined = nx.DiGraph([(a, b) for a, b in arrows if a != b])
        found |= {frozenset(c) for c in nx.strongly_connected_components(joined) if len(c) > 1}
    return found


def ablated(graph: nx.DiGraph) -> set[tuple[str, str]]:
    """The imports of an ablation by a memory that is no ablation itself."""
    inside = "nl_course.memories.ablations"
    arrows = ((a, b) for a, b in graph.edges if a.startswith("nl_course.memories") and b.startswith(inside))
    return {(a, b) for a, b in arrows if not a.startswith(inside)}


def test_every_package_has_its_floor():
    assert {package_of(module) for module in sources()} == set(FLOOR_OF)


def test_imports_go_down():
    assert not upward(import_graph(sources()))


def test_no_imports_go_round():
    assert not circles(import_graph(sources()))


def test_the_memories_know_nothing_of_their_ablations():
    assert not ablated(import_graph(sources()))


# -- what is put in is found -------------------------------------------------------------------------------------------
AT_THE_HEAD = "from nl_course.training import train"
IN_A_FUNCTION = "def f():\n    import nl_course.training.loop"
FOR_THE_TYPE_CHECKER = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nl_course.training import loop"


def with_line(module: str, line: str) -> nx.DiGraph:
    texts = sources()
    return import_graph({**texts, module: f"{texts[module]}\n{line}\n"})


@pytest.mark.parametrize("line", [AT_THE_HEAD, IN_A_FUNCTION, FOR_THE_TYPE_CHECKER])
def test_an_upward_import_is_found(line):
    new = upward(with_line("nl_course.tasks.text", line))
    assert [a for a, _ in new] == ["nl_course.tasks.text"] and all("nl_course.training" in b for _, b in new)


def test_a_circle_is_found():
    graph = with_line("nl_course.errors", "def f():\n    from nl_course.files import asset")
    assert frozenset({"nl_course.errors", "nl_course.files"}) in circles(graph)


def test_a_circle_of_packages_is_found_where_no_module_is_in_one():
    graph = import_graph(sources())
    graph.add_edge("nl_course.memories.common.gate", "nl_course.memories.linear.chunks")
    assert any({"memories.common", "memories.linear"} <= circle for circle in circles(graph))
    graph.add_edge("nl_course.suite.case", "nl_course.views.kit.theme")
    assert any({"suite", "views"} <= circle for circle in circles(graph))


def test_an_ablation_in_a_memory_is_found():
    line = "from nl_course.memories.ablations.switches import switched"
    arrow = ("nl_course.memories.linear.delta", "nl_course.memories.ablations.switches")
    assert arrow in ablated(with_line(arrow[0], line))
