"""What modules of a package import, read from their text: for the tests of how the package is built."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAME = "verse3d"


@dataclass(frozen=True)
class Import:
    """One module of the package importing another."""

    importer: str
    imported: str
    line: int
    place: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, packages under their own name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [NAME, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


parsed_text = cache(ast.parse)
"""Every rule looks at every file; parsing them and walking through them is most of the work."""


def parsed(path: Path) -> ast.Module:
    return parsed_text(path.read_text(encoding="utf-8"))


RULED = ast.Import | ast.ImportFrom | ast.Call | ast.Attribute
"""What rules are about; most nodes are names and constants."""


@cache
def with_place(tree: ast.Module) -> tuple[tuple[ast.AST, str], ...]:
    """Imports, calls, attributes and where each is: "module" (runs on loading), "function" or "types" (never runs)."""
    return tuple((node, place) for node, place in _below(tree, "module") if isinstance(node, RULED))


def _below(node: ast.AST, place: str) -> Iterator[tuple[ast.AST, str]]:
    todo = [(child, place) for child in ast.iter_child_nodes(node)][::-1]
    while todo:  # the next node of the text is always the last
        child, place = todo.pop()
        yield child, place
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            place = "function"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not child.orelse:
            place = "types"
        todo += [(below, place) for below in ast.iter_child_nodes(child)][::-1]


def import_targets(node: ast.AST, importer: str, is_package: bool) -> list[str]:
    """The dotted names that an import statement or ``import_module("...")`` could mean, most precise first."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = importer.split(".")
            above = above[: len(above) - node.level + is_package]
            base = ".".join([*above, base] if base else above)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            return [str(node.args[0].value)]
    return []


def nearest(target: str, known: dict[str, Path]) -> str:
    """The module itself, or the one that holds the name: verse3d.core.labels for verse3d.core.labels.Label."""
    return target if target in known else nearest(target.rpartition(".")[0], known)


def imports(package: Path) -> list[Import]:
    """All imports of the package's own modules by each other."""
    known = modules(package)
    return [
        Import(importer, nearest(target, known), line, place)
        for importer, path in known.items()
        for target, line, place in own_targets(parsed(path), importer, path.name == "__init__.py")
    ]


@cache
def own_targets(tree: ast.Module, importer: str, is_package: bool) -> tuple[tuple[str, int, str], ...]:
    """The names in this package that a module imports, in which line, and where that is."""
    return tuple(
        (target, getattr(node, "lineno", 0), place)
        for node, place in with_place(tree)
        for target in import_targets(node, importer, is_package)
        if target.split(".")[0] == NAME
    )


def loaded_by(start: str, package: Path) -> set[str]:
    """A module, and all that the import statements of modules load with it."""
    edges: dict[str, set[str]] = {}
    for edge in imports(package):
        if edge.place == "module":
            edges.setdefault(edge.importer, set()).add(edge.imported)
    found, todo = set(), [start]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += edges.get(module, ())
    return found
