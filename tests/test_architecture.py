"""The plan of the house: imports go down the stairs, only the CLI prints, files stay readable."""

import ast
import graphlib
import importlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import verse3d

PACKAGE = Path(verse3d.__file__).parent
NAME = "verse3d"
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
LONGEST_FILE = 400


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


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("def f(config: Config) -> None: ...", True),
        ("def f() -> 'Config | None': ...", True),
        ("class A:\n    config: Mapping[str, Config]", True),
        ("x = session.config.optim", True),
        ("def f(grid: GridConfig) -> OptimConfig: ...", False),
        ("x = session.optim", False),
    ],
)
def test_a_visit_of_the_config_is_told_from_one_of_a_section(line, counts):
    assert knows_config(ast.parse(line)) is counts


def test_more_visits_than_allowed_are_listed(house):
    names = [f"m{number}" for number in range(MOST_VISITS)]
    (house / "training").mkdir()
    (house / "training" / "fit.py").write_text(
        f"from verse3d.training import {', '.join(names)}\ndef fit(config: Config): ...\n"
    )
    for name in names:
        (house / "training" / f"{name}.py").write_text("def f(a):\n    return a.config\n")
    (problem,) = many_visits(house)
    assert f"visits {MOST_VISITS + 1}" in problem and "verse3d.training.m7" in problem
    (house / "training" / "m7.py").write_text("def f(grid: GridConfig): ...\n")
    assert many_visits(house) == []


def test_the_checker_sees_this_package():
    assert {"verse3d", "verse3d.core.volume", "verse3d.core.geometry"} <= set(modules(PACKAGE))
    edges = {(edge.importer, edge.imported) for edge in imports(PACKAGE)}
    assert ("verse3d.core.volume", "verse3d.core.geometry") in edges
    assert ("verse3d.core.volume", "verse3d.version") in edges


GOOD_HOUSE = {
    "__init__.py": (
        "from typing import TYPE_CHECKING\nfrom verse3d.version import __version__\n"
        "if TYPE_CHECKING:\n    from verse3d.api import train\n"
        "def __getattr__(name):\n    import verse3d.api"
    ),
    "version.py": "__version__ = '1'",
    "core/__init__.py": "",
    "core/labels.py": "import numpy\nfrom verse3d import __version__",
    "core/volume.py": "from . import labels\nfrom .labels import VERTEBRAE\nfrom verse3d.version import __version__",
    "data/__init__.py": "",
    "data/cases.py": "from verse3d.core import labels, volume\n\nclass Case: ...",
    "data/checks.py": "from .cases import Case\n\ndef check():\n    from os import path\n    return path",
    "data/index/__init__.py": "",
    "data/index/build.py": "from verse3d.data.cases import Case",
    "data/samples/__init__.py": "",
    "data/samples/store.py": "from verse3d.data.cases import Case\nfrom verse3d.data.index.build import build",
    "metrics/__init__.py": "",
    "metrics/scores.py": "from ..core import labels",
    "labelling/__init__.py": "",
    "labelling/names.py": "from verse3d.metrics import scores",
    "model/__init__.py": "from verse3d.model.modes import Mode",
    "model/modes.py": "import verse3d.data.cases as cases",
    "api.py": "from verse3d.model import Mode\nfrom verse3d.metrics.scores import score",
    "cli.py": "def run():\n    from verse3d import api\n    print(api)",
}

CRACKS = [
    pytest.param(wrong_edges, "core/labels.py", "from verse3d.data.cases import Case", "up the stairs", id="up"),
    pytest.param(wrong_edges, "core/labels.py", "from verse3d.data import cases", "up the stairs", id="up, a module"),
    pytest.param(wrong_edges, "core/labels.py", "import verse3d.model", "up the stairs", id="up, a plain import"),
    pytest.param(wrong_edges, "core/labels.py", "from ..data.cases import Case", "up the stairs", id="up, relative"),
    pytest.param(wrong_edges, "core/__init__.py", "from ..model import Mode", "up the stairs", id="up, from a package"),
    pytest.param(wrong_edges, "core/labels.py", "from verse3d import api", "up the stairs", id="up, through the front"),
    pytest.param(wrong_edges, "model/modes.py", "def f():\n    import verse3d.api", "up the stairs", id="up, hidden"),
    pytest.param(wrong_edges, "__init__.py", "from verse3d.api import train", "up the stairs", id="up, not lazily"),
    pytest.param(
        wrong_edges,
        "core/labels.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from verse3d.data.cases import Case",
        "up the stairs",
        id="up, for types",
    ),
    pytest.param(
        wrong_edges,
        "core/labels.py",
        "import importlib\nx = importlib.import_module('verse3d.data.cases')",
        "up the stairs",
        id="up, by name",
    ),
    pytest.param(wrong_edges, "model/modes.py", "from verse3d.labelling import names", "sideways", id="sideways"),
    pytest.param(wrong_edges, "labelling/names.py", "import verse3d.model.modes", "sideways", id="sideways, back"),
    pytest.param(circles, "core/labels.py", "from verse3d.core.volume import read", "circle", id="circle"),
    pytest.param(circles, "model/modes.py", "from verse3d.model import Mode", "circle", id="circle with a package"),
    pytest.param(circles, "data/cases.py", "from . import checks", "circle", id="circle, relative"),
    pytest.param(
        hidden_imports, "data/checks.py", "def f():\n    from verse3d.data import cases", "function", id="hidden"
    ),
    pytest.param(
        hidden_imports,
        "data/checks.py",
        "class C:\n    def f(self):\n        if self:\n            import verse3d.core.labels",
        "function",
        id="hidden deep",
    ),
    pytest.param(prints, "api.py", "def f():\n    print('done')", "prints", id="prints"),
    pytest.param(flags, "core/labels.py", "x = 'leave --split out'", "'--split', a flag", id="a flag in a text"),
    pytest.param(flags, "api.py", "# ``--max-ram-gb`` says so", "'--max-ram-gb', a flag", id="a flag in a comment"),
    pytest.param(long_files, "api.py", "x = 1\n" * 400, "401 lines", id="long"),
    pytest.param(
        wrong_wings, "data/cases.py", "from verse3d.data.index import build", "leans on a wing", id="hall on a wing"
    ),
    pytest.param(
        wrong_wings, "data/index/build.py", "from verse3d.data.samples.store import x", "circle of wings", id="wings"
    ),
    pytest.param(started_programs, "data/cases.py", "import subprocess", "can start programs", id="subprocess"),
    pytest.param(
        started_programs, "model/modes.py", "from subprocess import run", "can start programs", id="subprocess, a name"
    ),
    pytest.param(
        started_programs,
        "data/cases.py",
        "import os, sys\ndef f():\n    os.execv(sys.executable, ['-m', 'verse3d'])",
        "starts a program",
        id="itself, by name",
    ),
    pytest.param(doubled_classes, "metrics/scores.py", "class Case: ...", "Case is defined", id="two meanings"),
    pytest.param(unknown_rooms, "attic.py", "", "no floor", id="a module outside of the plan"),
    pytest.param(unknown_rooms, "attic/box.py", "", "no floor", id="a folder outside of the plan"),
]


@pytest.fixture
def house(tmp_path):
    for name, content in GOOD_HOUSE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content) + "\n")
    return tmp_path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_house_passes_the_checker(house, rule):
    assert rule(house) == []


@pytest.mark.parametrize(("rule", "name", "content", "words"), CRACKS)
def test_the_checker_finds_the_crack(house, rule, name, content, words):
    path = house / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content + "\n" if rule is not circles else path.read_text() + content + "\n")
    (problem, *_) = rule(house)
    assert words in problem
    assert ".".join([NAME, *Path(name).with_suffix("").parts]).removesuffix(".__init__") in problem


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
