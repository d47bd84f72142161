"""The plan of the house: imports go down the stairs, only the CLI prints, files stay readable."""

import ast
import graphlib
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import verse3d
from tests.imports import NAME, imports, loaded_by, modules, parsed, parsed_text, room, with_place

PACKAGE = Path(verse3d.__file__).parent
FLOORS = {
    "__init__": 0,
    "version": 0,
    "core": 0,
    "phantoms": 1,
    "downloads": 1,
    "metrics": 1,
    "data": 2,
    "model": 3,
    "labelling": 3,
    "inference": 4,
    "training": 5,
    "evaluation": 6,
    "report": 7,
    "api": 8,
    "cli": 9,
    "__main__": 10,
}
"""A module imports from floors below its own, and on floor 0 and in its own room also from its neighbours."""

WINGS = "data"
"""The room that is divided into wings: what is not in one of its folders is its hall, which every wing may use."""
MOST_IN_HALL, MOST_ARROWS = 14, 15

STARTS_ITSELF = {"api", "cli", "__main__"}
"""Rooms that may start verse3d as a program of its own: below, that would be an arrow that no import shows."""

LAZY = {"__init__", "api", "cli"}
"""Rooms that may import inside functions (and for types only) from anywhere, so that the program starts fast."""

PRINTS = {"cli"}
LONGEST_FILE = 300


def unknown_rooms(package: Path) -> list[str]:
    return [f"{module} stands on no floor" for module in modules(package) if room(module) not in FLOORS]


def wrong_edges(package: Path) -> list[str]:
    """Imports that go up the stairs, or sideways into another room of the same floor."""
    wrong = []
    for edge in imports(package):
        if edge.place != "module" and room(edge.importer) in LAZY:
            continue
        here, there = room(edge.importer), room(edge.imported)
        if here not in FLOORS or there not in FLOORS:
            continue
        if FLOORS[there] > FLOORS[here]:
            wrong.append(f"{edge}: up the stairs")
        elif FLOORS[there] == FLOORS[here] != 0 and here != there:
            wrong.append(f"{edge}: sideways")
    return wrong


def hidden_imports(package: Path) -> list[str]:
    return [
        f"{edge} inside a function"
        for edge in imports(package)
        if edge.place == "function" and room(edge.importer) not in LAZY
    ]


def circles(package: Path) -> list[str]:
    """The first import circle among the statements that run when a module is loaded."""
    edges: dict[str, set[str]] = {module: set() for module in modules(package)}
    for edge in imports(package):
        if edge.place == "module" and edge.importer != edge.imported:
            edges[edge.importer].add(edge.imported)
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return [f"circle of imports: {' <- '.join(error.args[1])}"]
    return []


def prints(package: Path) -> list[str]:
    return [
        f"{module}:{node.lineno} prints"
        for module, path in modules(package).items()
        if room(module) not in PRINTS
        for node, _ in with_place(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def long_files(package: Path) -> list[str]:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules(package).items()}
    return [f"{module} has {lines} lines" for module, lines in lengths.items() if lines > LONGEST_FILE]


def flags(package: Path) -> list[str]:
    """Flags of a command line outside of it: the library is called from Python, too."""
    return [
        f"{module}:{number} says {found[0]!r}, a flag"
        for module, path in modules(package).items()
        if room(module) not in PRINTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (found := re.search(r"(?<![\w-])--[a-z][a-z-]*", line))
    ]


def wing(module: str) -> str:
    """The wing of the divided room that a module lies in: "" for its hall."""
    parts = module.split(".")
    return parts[2] if len(parts) > 3 else ""


def wrong_wings(package: Path) -> list[str]:
    """A crowded hall, a hall that leans on a wing, too many arrows between wings, or a circle of them."""
    known = [module for module in modules(package) if room(module) == WINGS and module.count(".") > 1]
    folders = {wing(module) for module in known} - {""}
    hall = [module for module in known if not wing(module) and module.split(".")[2] not in folders]
    wrong = [f"the hall of {WINGS} holds {len(hall)} modules"] if len(hall) > MOST_IN_HALL - 1 else []
    arrows: dict[str, set[str]] = {name: set() for name in folders}
    between = []
    for edge in imports(package):
        if room(edge.importer) == room(edge.imported) == WINGS:
            here, there = wing(edge.importer), wing(edge.imported)
            if here != there and there and not here and edge.importer.split(".")[2:3] != [there]:
                wrong.append(f"{edge}: the hall leans on a wing")
            elif here and there and here != there:
                arrows[here].add(there)
                between.append(str(edge))
    if len(set(between)) > MOST_ARROWS:
        wrong.append(f"{len(set(between))} arrows between the wings of {WINGS}: {'; '.join(sorted(set(between)))}")
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"circle of wings: {' <- '.join(error.args[1])} in {WINGS}: {'; '.join(between)}")
    return wrong


def started_programs(package: Path) -> list[str]:
    """Other programs, or this one by its name, started below ``api``."""
    found = []
    for module, path in modules(package).items():
        if room(module) in STARTS_ITSELF:
            continue
        for node, _ in with_place(parsed(path)):
            line = getattr(node, "lineno", 0)
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                if "subprocess" in names:
                    found.append(f"{module}:{line} can start programs")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                found += [f"{module}:{line} starts a program with {name}"] if name in PROGRAM_STARTERS else []
    return found


def doubled_classes(package: Path) -> list[str]:
    """Public classes of one name in two modules: whoever reads it must look where it came from."""
    places: dict[str, list[str]] = {}
    for module, path in modules(package).items():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    return [f"{name} is defined in {' and '.join(found)}" for name, found in places.items() if len(found) > 1]


DOOR, CONFIG, MOST_VISITS = "training.fit", "core.config", 8
"""From the door on, so many modules may know the whole config; the others get values, or a section of it."""


def knows_config(tree: ast.Module) -> bool:
    """Whether a module names the type ``Config`` in an annotation, or reads a ``config`` of something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.lstrip("_") == "config":
            return True
        annotations = [getattr(node, name, None) for name in ("annotation", "returns")]
        for annotation in annotations:
            if annotation is not None and re.search(r"\bConfig\b", ast.unparse(annotation)):
                return True
    return False


def many_visits(package: Path) -> list[str]:
    """Too many modules on the way of a config through a training."""
    files = modules(package)
    visited = sorted(
        module
        for module in loaded_by(f"{NAME}.{DOOR}", package)
        if module in files and module != f"{NAME}.{CONFIG}" and knows_config(parsed(files[module]))
    )
    return [f"a config visits {len(visited)}: {', '.join(visited)}"] if len(visited) > MOST_VISITS else []


PROGRAM_STARTERS = {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.posix_spawn", "sys.executable"}
RULES = [
    unknown_rooms,
    wrong_edges,
    hidden_imports,
    circles,
    prints,
    long_files,
    flags,
    wrong_wings,
    started_programs,
    many_visits,
    doubled_classes,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_as_planned(rule):
    assert rule(PACKAGE) == []


def test_the_picture_of_the_house_shows_these_floors_and_no_import_that_goes_up(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(PACKAGE.parent / "scripts")
    drawing = importlib.import_module("house")
    monkeypatch.setattr(ast, "parse", parsed_text)  # what the rules have parsed
    stacked = [{room for room, floor in FLOORS.items() if floor == number} for number in range(9, -1, -1)]
    assert [set(floor) for floor in drawing.FLOORS] == [rooms - {"__init__", "version"} for rooms in stacked]
    rooms = [room for floor in drawing.FLOORS for room in floor]
    sizes, arrows = drawing.measured(rooms)
    assert sum(modules for modules, _ in sizes.values()) + 3 == len(list(PACKAGE.rglob("*.py")))
    assert not np.tril(arrows).any() and arrows[rooms.index("api"), rooms.index("report")] > 0
    monkeypatch.setattr(drawing, "measured", lambda _: (sizes, arrows))
    drawing.draw(tmp_path / "house.png")
    assert (tmp_path / "house.png").stat().st_size > 10_000
