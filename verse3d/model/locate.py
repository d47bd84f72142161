"""Where the model file is that a path stands for: a run folder is as good as the model in it."""

import os
from collections.abc import Sequence
from pathlib import Path

from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.logs import logger
from verse3d.model.starter import ABOUT, STARTER, starter_file

MODEL_FILES = ("best.pt", "last.pt")
"""Of a run folder, the one to predict with first."""
_log = logger(__name__)


def named_path(model: PathOrText | None) -> Path:
    """The path itself, or the starter weights; whether anything is there is not looked at. See ``model_file``."""
    if model is None or (str(model) == STARTER and not Path(model).exists()):
        _log.info("%s", ABOUT)
        return starter_file()
    return Path(model)


def model_file(model: PathOrText | None) -> Path:
    """The model file itself: the path, ``best.pt`` (else ``last.pt``) of a run folder, or the starter weights.

    The starter weights are meant by ``None`` and by the word "starter" (a file or folder of that name goes first); what
    they are is logged when they are chosen.

    Raises:
        CheckpointError: nothing is there, or the folder holds no model.
    """
    path = named_path(model)
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


def model_files(models: PathOrText | Sequence[PathOrText] | None) -> list[Path]:
    """The model files that one path or several stand for.

    Raises:
        ConfigError: none is named, or one of them twice.
        CheckpointError: as for ``model_file``.
    """
    named = [models] if models is None or isinstance(models, str | os.PathLike) else models
    files = [model_file(path) for path in named]
    if not files:
        raise ConfigError("no model was given")
    if len({path.resolve() for path in files}) < len(files):
        raise ConfigError("the same model was given twice: it would count twice in the average")
    return files
