"""The rules of the house find each crack in a small house made for it, and leave a good one alone."""

import ast
import textwrap
from pathlib import Path

import pytest

from tests.imports import NAME, imports, modules
from tests.test_architecture import (
    MOST_VISITS,
    PACKAGE,
    RULES,
    circles,
    doubled_classes,
    flags,
    hidden_imports,
    knows_config,
    long_files,
    many_visits,
    prints,
    started_programs,
    unknown_rooms,
    wrong_edges,
    wrong_wings,
)


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
    pytest.param(long_files, "api.py", "x = 1\n" * 300, "301 lines", id="long"),
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
