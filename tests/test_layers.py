"""The house: rooms in the order in which a connection is born, each importing only leftward."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sockscope

# A room imports from itself and from those before it. A new room gets its place here.
ROOMS = [
    "_core",
    "_addresses",
    "_options",
    "_sockets",
    "_buffered",
    "buffered",
    "_tls",
    "_open",
    "_serve",
    "testing",
    "_cli",
    "__main__",
]
# The package itself, in its __init__, takes names from every room but these,
# which nobody pays for who does not import them.
NOT_IN_THE_ROOT = {"_buffered", "buffered", "testing", "_cli", "__main__"}

SOURCE = Path(sockscope.__file__).parent
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room of ``_core.errors`` is ``_core``."""
    return module.split(".")[0]


def imports_of(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Each import in *tree* with the module it names, ``from a import b`` as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def resolve(name: str, modules: set[str]) -> str | None:
    """The module of ours that the import of *name* reaches; "" is the package root."""
    if name.startswith("."):
        raise AssertionError(f"relative import {name}")
    head, _, rest = name.partition(".")
    if head != "sockscope":
        return None
    for candidate in (rest, rest.rpartition(".")[0]):
        for module in (candidate, f"{candidate}.__init__"):
            if candidate and module in modules:
                return module
    # A name of the package itself; or of a module that is not there, which its room tells.
    return rest if "." in rest else ""


def faults(module: str, source: str, modules: set[str]) -> list[str]:
    """What the imports of *source*, the text of *module*, do against the rules of the house."""
    tree = ast.parse(source)
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    found = []
    for node, name in imports_of(tree):
        if node in inside:
            found.append(f"line {node.lineno}: {name} is imported inside a function")
        if name.startswith("."):
            found.append(f"line {node.lineno}: {name} is a relative import")
            continue
        target = resolve(name, modules)
        if target is not None and (wrong := wrong_way(room_of(module), room_of(target))):
            found.append(f"line {node.lineno}: {name}: {wrong}")
    return found


def wrong_way(room: str, target: str) -> str | None:
    """Why *room* may not import from *target*, or None."""
    if target == "":
        return "the package root is for users"
    if target not in ROOMS:
        return f"{target} has no place in the order of rooms"
    if room == "__init__":
        return f"{target} is not for the package root" if target in NOT_IN_THE_ROOT else None
    if ROOMS.index(target) > ROOMS.index(room):
        return f"{target} is to the right of {room}"
    return None


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle of *graph*, or none."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(graph[module]):
            if cycle := visit(target, [*path, module]):
                return cycle
        finished.add(module)
        return []

    for module in graph:
        if cycle := visit(module, []):
            return cycle
    return []


@pytest.mark.parametrize("module", [name for name in FILES if "." in name or name in ROOMS])
def test_every_module_has_its_place(module):
    assert room_of(module) in ROOMS


@pytest.mark.parametrize("module", FILES)
def test_imports_go_leftward(module):
    assert faults(module, FILES[module].read_text("utf-8"), set(FILES)) == []


def test_no_cycles():
    graph = {
        module: {
            target
            for _, name in imports_of(ast.parse(path.read_text("utf-8")))
            if (target := resolve(name, set(FILES))) in FILES
        }
        for module, path in FILES.items()
    }
    assert cycle_in(graph) == []


@pytest.mark.parametrize(
    "module", [name for name in FILES if name.startswith("_") and name.endswith(".__init__")]
)
def test_a_private_room_opens_with_its_docstring_alone(module):
    body = ast.parse(FILES[module].read_text("utf-8")).body
    assert len(body) == 1
    assert ast.get_docstring(ast.Module(body, []))


# The checks themselves: each rule of the house, broken on purpose.
HOUSE = {"__init__", "_core.__init__", "_core.errors", "_open.__init__", "_open.open"}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_core.errors", "from sockscope._open.open import f", "to the right"),
        ("_core.errors", "import sockscope._open.open", "to the right"),
        ("_core.errors", "from sockscope._open import open", "to the right"),
        ("_open.open", "import sockscope", "package root"),
        ("_open.open", "from sockscope import SocketError", "package root"),
        ("_open.open", "from .errors import f", "relative"),
        ("_open.open", "def f():\n    import os", "inside a function"),
        ("_open.open", "async def f():\n    from sockscope._core.errors import f", "inside"),
        ("_open.open", "class C:\n    def m(self):\n        import os", "inside"),
        ("__init__", "from sockscope._cli.main import main", "not for the package root"),
    ],
)
def test_the_rules_find_what_breaks_them(module, source, complaint):
    [fault] = faults(module, source, HOUSE | {"_cli.main"})
    assert complaint in fault


def test_the_rules_let_the_rest_pass():
    source = "import os\nfrom sockscope._core.errors import f\nfrom sockscope._open import open"
    assert faults("_open.open", source, HOUSE) == []


def test_cycles_are_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
