"""Where the model file is that a path stands for: a run folder is as good as the model in it."""

import os
from collections.abc import Sequence
from pathlib import Path

from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.core.files import PathOrText

MODEL_FILES = ("best.pt", "last.pt")
"""Of a run folder, the one to predict with first."""


def model_file(path: Path) -> Path:
    """The model file itself: ``path``, or ``best.pt`` (else ``last.pt``) of the run folder ``path``.

    Raises:
        CheckpointError: nothing is there, or the folder holds no model.
    """
    if not path.exists():
        raise CheckpointError(f"there is no model file {path}", hint="pass a run folder, or the best.pt in it")
    if not path.is_dir():
        return path
    found = next((path / name for name in MODEL_FILES if (path / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"the folder {path} holds no model file ({' or '.join(MODEL_FILES)})",
            hint="pass the folder of a finished run",
        )
    return found


def model_files(models: PathOrText | Sequence[PathOrText]) -> list[Path]:
    """The model files that one path or several stand for.

    Raises:
        ConfigError: none is named, or one of them twice.
        CheckpointError: as for ``model_file``.
    """
    named = [models] if isinstance(models, str | os.PathLike) else models
    files = [model_file(Path(path)) for path in named]
    if not files:
        raise ConfigError("no model was given")
    if len({path.resolve() for path in files}) < len(files):
        raise ConfigError("the same model was given twice: it would count twice in the average")
    return files
