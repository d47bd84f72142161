"""Is this machine fit for verse3d, and what is missing? What a report of a bug needs, and nothing about patients."""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from verse3d.api.evaluating import evaluate
from verse3d.api.obtaining import phantom
from verse3d.api.predicting import predict
from verse3d.core.errors import Verse3dError
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.core.memory import free_memory_bytes
from verse3d.core.runtime import choose_device, choose_precision, installed_version
from verse3d.core.threads import thread_count
from verse3d.model.checkpoint import load_checkpoint
from verse3d.model.locate import model_file
from verse3d.model.starter import model_card, starter_file
from verse3d.version import __version__

_NEEDED = ("torch", "monai", "numpy", "scipy", "nibabel", "pytorch-ignite", "pydantic", "matplotlib", "blosc2", "isal")
_EXTRAS = {
    "openvino": "many predictions on a CPU are quicker with it: pip install 'verse3d[openvino]'",
    "onnx": "wanted only to export to ONNX: pip install 'verse3d[onnx]'",
    "onnxruntime": "wanted only to export to ONNX: pip install 'verse3d[onnx]'",
}
_LEAST_MEMORY, _LEAST_DISK = 3e9, 5e9
_LEAST_DICE = 0.5
"""Of the starter weights on a phantom: they reach 0.96, and a broken installation nothing at all."""
_TEST_SEED = 300
_REPORT = "report it with all that is printed here"


@dataclass(frozen=True)
class Advice:
    """Something that is missing or wrong, and what to do about it. ``serious``: verse3d does not work without."""

    what: str
    remedy: str
    serious: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What ``doctor`` found.

    Attributes:
        facts: versions, device, cores, memory, disk ..., by name; no path and no name of a file.
        advice: what to install or change; empty if there is nothing.
        about_model: what is known about the model that was asked about, as text; "" if none was.
    """

    facts: Mapping[str, str]
    advice: tuple[Advice, ...]
    about_model: str = ""

    @property
    def is_well(self) -> bool:
        """Whether verse3d works here."""
        return not any(one.serious for one in self.advice)


def doctor(*, model: PathOrText | None = None, self_test: bool = True, progress: Progress = no_progress) -> Diagnosis:
    """Look at the installation and the machine, and segment a synthetic scan with the starter weights.

    Args:
        model: also tell what is known about this model; of "starter" the model card.
        self_test: segment the synthetic scan, which takes up to a minute.
        progress: told about the self-test.

    Raises:
        CheckpointError: the model that was asked about is missing, damaged or of another version.
    """
    about = "" if model is None else _about(model)
    packages = {name: installed_version(name) for name in (*_NEEDED, *_EXTRAS)}
    facts = {"verse3d": __version__, "Python": platform.python_version(), **packages, **_machine()}
    missing = [name for name in _EXTRAS if packages[name] == "not installed"]
    advice = [Advice(f"{name} is not installed", _EXTRAS[name]) for name in missing]
    advice += [*_tight(), *_unused_gpu()]
    if self_test:
        result, failed = _tried(progress)
        facts["self-test"] = result
        advice += failed
    return Diagnosis(facts, tuple(advice), about)


def _about(model: PathOrText) -> str:
    # The starter model has a card of its own; of any other model its file knows what there is to know.
    path = model_file(model)
    if path == starter_file():
        return model_card()
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    scores = ", ".join(f"{name} {value:.3f}" for name, value in checkpoint.scores.items()) or "none"
    written = ", ".join(f"{name} {number}" for name, number in checkpoint.versions.items())
    return "\n".join(
        [
            f"{config.mode} {config.network.name} {list(config.network.channels)}, labels: {config.labels.scheme}",
            f"network grid {list(config.grid.spacing_mm)} mm, window {list(config.grid.window_hu)} HU",
            f"epoch {checkpoint.epoch}; scores: {scores}",
            f"written by {written}",
        ]
    )


def _machine() -> dict[str, str]:
    """The machine without its name: what computes, and how much room there is."""
    device = choose_device()
    name = "cpu"
    if device.type != "cpu":
        gpu = torch.cuda.get_device_properties(device)
        name = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(thread_count()),
        "free memory": f"{free_memory_bytes() / 1e9:.1f} GB",
        "free disk for temporary files": f"{disk / 1e9:.1f} GB",
        "device": name,
        "precision": str(choose_precision("auto", device).dtype).removeprefix("torch."),
        "encoding of the terminal": getattr(sys.__stdout__, "encoding", None) or "unknown",
    }


def _tight() -> list[Advice]:
    found = []
    if free_memory_bytes() < _LEAST_MEMORY:
        found.append(Advice("less than 3 GB of memory are free", "close other programs before you predict or train"))
    if shutil.disk_usage(tempfile.gettempdir()).free < _LEAST_DISK:
        found.append(Advice("less than 5 GB of disk are free for temporary files", "make room, or set TMPDIR"))
    return found


def _unused_gpu() -> list[Advice]:
    """A GPU that its driver shows and PyTorch does not see."""
    # nvidia-smi comes with the driver, so it tells that there should be a GPU.
    if torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return []
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs only"
    return [
        Advice(
            f"there is an NVIDIA driver, but PyTorch ({built}) sees no GPU",
            "install the PyTorch that suits the driver, see pytorch.org/get-started",
        )
    ]


def _tried(progress: Progress) -> tuple[str, list[Advice]]:
    """The outcome of the self-test in words, and what to do if it failed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="verse3d-doctor-") as folder:
        try:
            dice = _segment_phantom(Path(folder), progress)
        except Exception as error:  # whatever a broken installation raises is what the report must say
            # It may be shown to others: no path of the temporary folder, nor of the user's own.
            reason = (str(error) or type(error).__name__).replace(folder, "...").replace(str(Path.home()), "...")
            return f"failed: {type(error).__name__}", [Advice(f"the self-test failed: {reason}", _REPORT, serious=True)]
    words = f"a synthetic scan was made, segmented and scored in {time.monotonic() - started:.0f} s: Dice {dice:.2f}"
    if dice < _LEAST_DICE:
        # It ran, and its mask is wrong: worse than an error, because nobody would see it.
        return f"failed: {words}", [
            Advice(f"the mask of the self-test is wrong (Dice {dice:.2f})", _REPORT, serious=True)
        ]
    return words, []


def _segment_phantom(folder: Path, progress: Progress) -> float:
    """Dice of the starter weights on a phantom."""
    phantom(folder / "scans", cases=1, seed=_TEST_SEED, progress=progress)
    report = predict(folder / "scans", out=folder / "masks", progress=progress)
    for record in report.records:
        if record.error:
            raise Verse3dError(record.error)
    scored = evaluate(pred=folder / "masks", truth=folder / "scans", out=folder / "scores.json", progress=progress)
    return scored.cases[0].labels["vertebrae"].dice
