"""Model files: plain tensors, numbers and words, loaded with ``weights_only=True``. No pickle of ours is ever run."""

import pickle
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError
from verse3d.core.files import output_error, whole_file
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.version import __version__

FORMAT = "verse3d checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and everything that is needed to use it.

    Attributes:
        config: the complete config of the run.
        network: the weights by name.
        epoch: epochs trained.
        scores: e.g. ``{"validation_dice": 0.91}``.
        training: optimizer, scheduler, scaler, random state ... for resuming; empty in a best.pt.
        versions: of verse3d and of the libraries that wrote it.
    """

    config: Config
    network: dict[str, torch.Tensor]
    epoch: int
    scores: dict[str, float]
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        return label_scheme(self.config.labels.scheme)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "labels": {label.name: label.id for label in checkpoint.scheme.labels},
        "versions": _versions(),
        "epoch": checkpoint.epoch,
        "scores": checkpoint.scores,
        "network": checkpoint.network,
        "training": checkpoint.training,
    }
    with whole_file(path) as part, part.open("wb") as handle:
        try:
            torch.save(content, handle)
        except RuntimeError as error:  # PyTorch's word for a write that failed half-way
            reason = error.__context__
            raise output_error(path, reason if isinstance(reason, OSError) else OSError(str(error))) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, truncated, unsafe (holds more than plain data), not ours, or of a newer version.
    """
    content = _load_plain(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a verse3d model", hint="pass the best.pt or last.pt of a run folder")
    version = content.get("format_version")
    if not isinstance(version, int) or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this verse3d {__version__} reads version {FORMAT_VERSION}",
            hint="install the verse3d version that wrote it: " + _written_by(content),
        )
    try:
        return Checkpoint(
            config=parse_config(_section(content, "config"), source=f"the config inside {path}"),
            network=_section(content, "network"),
            epoch=int(content["epoch"]),
            scores=_section(content, "scores"),
            training=_section(content, "training"),
            versions=_section(content, "versions"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is incomplete or inconsistent: {error}") from error


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content[name]
    if not isinstance(section, dict):
        raise TypeError(f"{name!r} is no mapping but {type(section).__name__}")
    return section


def _load_plain(path: Path) -> Any:  # noqa: ANN401 - anything may be in a file
    if not path.is_file():
        raise CheckpointError(f"there is no model file {path}", hint="pass the best.pt of a run folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is no plain model file, loading it could run code ({_first_line(error)})",
            hint="use a model file that verse3d wrote",
        ) from error
    except Exception as error:  # damaged bytes lead PyTorch's reader anywhere
        raise CheckpointError(
            f"{path} cannot be read, it is truncated or damaged: {_first_line(error)}", hint="copy it again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _written_by(content: dict[str, Any]) -> str:
    versions = content.get("versions")
    return str(versions.get("verse3d", "unknown")) if isinstance(versions, dict) else "unknown"


def _versions() -> dict[str, str]:
    return {
        "verse3d": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": str(monai.__version__),
        "numpy": str(np.__version__),
    }


def load_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put weights into a network.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the weights in {path} do not fit the network of its config: {error}") from error
