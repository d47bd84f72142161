"""One function per job. The command line calls exactly these; so can a notebook.

Example:
    >>> import verse3d
    >>> verse3d.train(data="cases.jsonl", out="runs/a")  # doctest: +SKIP
    >>> verse3d.predict("scan.nii.gz", model="runs/a", out="masks")  # doctest: +SKIP
    >>> verse3d.load_model("runs/a").segment("scan.nii.gz").labels  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from verse3d.core.importing import uncollected

if TYPE_CHECKING:
    from verse3d.api.comparison import compare
    from verse3d.api.converting import convert
    from verse3d.api.data import check, index
    from verse3d.api.diagnosing import Advice, Diagnosis, doctor
    from verse3d.api.evaluating import evaluate
    from verse3d.api.exporting import ExportResult, export
    from verse3d.api.folds import FoldsResult, folds_of, train_folds
    from verse3d.api.journey import DemoResult, demo
    from verse3d.api.model import Model, Segmentation, load_model
    from verse3d.api.models import train
    from verse3d.api.naming import relabel
    from verse3d.api.obtaining import download, phantom
    from verse3d.api.pictures import LookResult, look
    from verse3d.api.predicting import LABEL_FILE, predict
    from verse3d.api.preparing import prepare, prepared, prune
    from verse3d.api.progress import progress_bars
    from verse3d.api.slicing import slices
    from verse3d.api.statistics import StatsResult, stats

__all__ = [
    "LABEL_FILE",
    "Advice",
    "DemoResult",
    "Diagnosis",
    "ExportResult",
    "FoldsResult",
    "LookResult",
    "Model",
    "Segmentation",
    "StatsResult",
    "check",
    "compare",
    "convert",
    "demo",
    "doctor",
    "download",
    "evaluate",
    "export",
    "folds_of",
    "index",
    "load_model",
    "look",
    "phantom",
    "predict",
    "prepare",
    "prepared",
    "progress_bars",
    "prune",
    "relabel",
    "slices",
    "stats",
    "train",
    "train_folds",
]
_HOME = {
    **dict.fromkeys(("check", "index"), "data"),
    **dict.fromkeys(("download", "phantom"), "obtaining"),
    **dict.fromkeys(("LookResult", "look"), "pictures"),
    **dict.fromkeys(("StatsResult", "stats"), "statistics"),
    **dict.fromkeys(("LABEL_FILE", "predict"), "predicting"),
    **dict.fromkeys(("Model", "Segmentation", "load_model"), "model"),
    **dict.fromkeys(("prepare", "prepared", "prune"), "preparing"),
    **dict.fromkeys(("DemoResult", "demo"), "journey"),
    **dict.fromkeys(("ExportResult", "export"), "exporting"),
    **dict.fromkeys(("FoldsResult", "folds_of", "train_folds"), "folds"),
    **dict.fromkeys(("Advice", "Diagnosis", "doctor"), "diagnosing"),
    "compare": "comparison",
    "convert": "converting",
    "evaluate": "evaluating",
    "relabel": "naming",
    "train": "models",
    "progress_bars": "progress",
    "slices": "slicing",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    """Load a job when it is first used: those about data need no PyTorch, which takes seconds to import."""
    if name not in _HOME:
        raise AttributeError(f"module 'verse3d.api' has no attribute {name!r}")
    with uncollected():
        module = import_module(f"verse3d.api.{_HOME[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    """What is loaded and what will be when it is first used."""
    return sorted({*globals(), *__all__})
