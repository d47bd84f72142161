"""verse3d: native 3D segmentation of vertebrae in CT. Every command of the CLI is a function here."""

from typing import TYPE_CHECKING, Any

from verse3d.version import __version__

if TYPE_CHECKING:
    from verse3d.api import (
        check,
        compare,
        convert,
        demo,
        download,
        evaluate,
        export,
        index,
        look,
        phantom,
        predict,
        prepare,
        prepared,
        prune,
        slices,
        stats,
        train,
        train_folds,
    )

__all__ = [
    "__version__",
    "check",
    "compare",
    "convert",
    "demo",
    "download",
    "evaluate",
    "export",
    "index",
    "look",
    "phantom",
    "predict",
    "prepare",
    "prepared",
    "prune",
    "slices",
    "stats",
    "train",
    "train_folds",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    """Load the API (and with it PyTorch) when it is first used, so that ``verse3d --help`` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'verse3d' has no attribute {name!r}")
    from verse3d import api  # noqa: PLC0415

    return getattr(api, name)
