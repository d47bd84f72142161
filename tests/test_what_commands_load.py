"""What each command imports: a program that segments in two seconds must not spend five on libraries."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.imports import import_targets, modules, nearest, parsed, with_place
from tests.inference.backends.models import config_of, needs, write_model
from tests.scans import spine
from tests.test_architecture import PACKAGE

TRAINING_ONLY = {"monai", "ignite", "tensorboard", "matplotlib", "sympy", "pandas"}
WITHOUT_TORCH = {"torch", "openvino", *TRAINING_ONLY}
SCIPY = {f"scipy.{part}" for part in ("ndimage", "spatial", "special", "sparse", "interpolate", "stats")}
"""SciPy's parts, a tenth of a second each with what they load. ``import scipy`` loads a part when it is used."""
LEAN = {*WITHOUT_TORCH, *SCIPY}

UNWANTED = {
    "verse3d": {"torch", "numpy", "scipy", "nibabel", "pydantic", "rich", "typer", *WITHOUT_TORCH},
    "verse3d.cli": {"numpy", "scipy", "nibabel", *WITHOUT_TORCH},
    "verse3d.api.data": {"requests", *LEAN},
    "verse3d.api.evaluating": LEAN,
    "verse3d.api.pictures": LEAN,  # it loads matplotlib when it draws
    "verse3d.api.statistics": LEAN - {"matplotlib"},
    "verse3d.api.converting": WITHOUT_TORCH,
    "verse3d.api.obtaining": WITHOUT_TORCH,
    "verse3d.data.quality.examine": {"rich", *LEAN},  # what the processes that read cases load, and their pool
    "verse3d.core.worker_pool": {"rich", *WITHOUT_TORCH},
    "verse3d.report.pictures": WITHOUT_TORCH - {"matplotlib"},
    "verse3d.api.predicting": LEAN,  # it loads the next two while the first scan is read
    "verse3d.inference.predict": {"openvino", "scipy.spatial", *TRAINING_ONLY},
    "verse3d.inference.loading": {"openvino", "scipy.spatial", *TRAINING_ONLY},
}
"""What may not be imported, neither by the module nor by any that it imports in turn."""


def loaded_by(module: str) -> set[str]:
    """The packages of other people that importing a module of ours leads to, by our own import statements; of their
    parts the first, as in "scipy.ndimage".
    """
    known, waiting, seen, others = modules(PACKAGE), [module], set(), set()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        waiting += [here.rpartition(".")[0]] if "." in here else []  # the __init__ of its folder
        targets = imported(here, known[here])
        waiting += [nearest(target, known) for target in targets if target.split(".")[0] == "verse3d"]
        others |= {".".join(target.split(".")[:length]) for target in targets for length in (1, 2)}
    return others


@cache
def imported(module: str, path: Path) -> list[str]:
    """What the import statements name that run when a module is loaded."""
    return [
        target
        for node, place in with_place(parsed(path))
        if place == "module" and isinstance(node, ast.Import | ast.ImportFrom)
        for target in import_targets(node, module, path.name == "__init__.py")
    ]


@pytest.mark.parametrize("module", UNWANTED)
def test_no_command_imports_what_it_does_not_need(module):
    assert loaded_by(module) & UNWANTED[module] == set()


def test_the_search_finds_what_is_imported_at_second_hand():
    assert {"torch", "ignite"} <= loaded_by("verse3d.api.models")
    assert {"torch", "numpy", "nibabel"} <= loaded_by("verse3d.inference.predict")
    assert {"matplotlib", "matplotlib.figure"} <= loaded_by("verse3d.api.statistics")
    assert {"scipy.ndimage", "scipy.sparse"} <= loaded_by("verse3d.inference.predict")


def test_commands_that_need_no_network_have_loaded_little_when_they_begin():
    # What is used while a module is loaded does not show in its import statements.
    code = "import sys; from verse3d import api, cli; api.check, api.look, api.evaluate; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = set(run.stdout.split())
    assert {"verse3d.api.pictures", "verse3d.evaluation.score_folder", "scipy"} <= loaded
    assert loaded & {"requests", *LEAN} == set()


PREDICT = """
import sys
from verse3d.cli import main
options = ["--model", sys.argv[2], "--out", sys.argv[3], "--device", "cpu", "--no-preview", "--backend", sys.argv[4]]
code = main(["-q", "predict", sys.argv[1], *options])
print(code, *(name for name in sys.argv[5:] if name in sys.modules))
"""


@pytest.mark.slow  # it starts the whole program three times; the import statements alone are looked at above
def test_predicting_loads_no_monai_with_the_unet_nor_with_a_converted_and_proven_model(tmp_path):
    needs("openvino")
    scan, model = spine().write(tmp_path / "scan.nii.gz"), write_model(tmp_path / "unet.pt", config_of())
    other = write_model(tmp_path / "best.pt", config_of(network="dynunet"))

    def loaded(model: Path, out: str, backend: str) -> list[str]:
        """The unwanted modules after a whole prediction, behind its exit code."""
        unwanted = ["monai", "ignite", "sympy", "matplotlib", "tensorboard"]
        unwanted += ["scipy.stats", "scipy.interpolate", "scipy.spatial", "verse3d.phantoms"]
        words = [str(scan), str(model), str(tmp_path / out), backend, *unwanted]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        run = subprocess.run(
            [sys.executable, "-c", PREDICT, *words], capture_output=True, text=True, env=environment, check=True
        )
        return run.stdout.splitlines()[-1].split()

    assert loaded(model.path, "with PyTorch", "torch") == ["0"]
    first = loaded(other.path, "first", "openvino")
    assert first[0] == "0" and "monai" in first  # the network is built to be converted, and to compare with
    assert loaded(other.path, "second", "openvino") == ["0"]
