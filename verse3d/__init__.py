"""verse3d: native 3D segmentation of vertebrae in CT.

Every command of the program is a function here, with parameters named like its options:

    data        phantom, download, index, check, stats, look, convert, slices
    training    prepare, prepared, prune, train
    models      predict, evaluate, compare, export, demo
    notebooks   load_model, progress_bars

    >>> import verse3d
    >>> model = verse3d.load_model("runs/a")  # doctest: +SKIP
    >>> found = model.segment("scan.nii.gz")  # doctest: +SKIP
    >>> found.labels, found.affine, found.levels  # doctest: +SKIP

``help(verse3d.predict)`` says what a function takes, returns and raises.
"""

from typing import TYPE_CHECKING, Any

from verse3d.version import __version__

if TYPE_CHECKING:
    from verse3d.api import (
        Model,
        Segmentation,
        check,
        compare,
        convert,
        demo,
        doctor,
        download,
        evaluate,
        export,
        index,
        load_model,
        look,
        phantom,
        predict,
        prepare,
        prepared,
        progress_bars,
        prune,
        relabel,
        slices,
        stats,
        train,
        train_folds,
    )

__all__ = [
    "Model",
    "Segmentation",
    "__version__",
    "check",
    "compare",
    "convert",
    "demo",
    "doctor",
    "download",
    "evaluate",
    "export",
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


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    """Load the API (and with it PyTorch) when it is first used, so that asking the program for help stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'verse3d' has no attribute {name!r}")
    from verse3d import api  # noqa: PLC0415

    return getattr(api, name)


def __dir__() -> list[str]:
    """All functions, though they are loaded when they are first used."""
    return sorted({*globals(), *__all__})
