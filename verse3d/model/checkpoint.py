"""Model files: plain tensors, numbers and words, loaded with ``weights_only=True``. No pickle of ours is ever run.

Format version 2 (version 1 has neither ``networks`` nor ``sha256``, and is still read):

    format, format_version   what this is
    config, labels           how the network was trained, and what its channels mean
    network                  its weights by name
    networks                 further networks by name, e.g. {"scout": {config, network, epoch, scores}}
    epoch, scores, versions  how far it was trained, how good it was, who wrote it
    training                 optimizer, schedule, random state ... to go on; empty in a best.pt
    sha256                   of all the rest, see ``checksum``
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError
from verse3d.core.files import output_error, whole_file
from verse3d.core.labels import LabelScheme
from verse3d.model.checksum import as_plain, content_sha256
from verse3d.model.modes import Method
from verse3d.model.plainfile import damaged, load_plain
from verse3d.model.stored import StoredCheckpoint, StoredPart, read_stored
from verse3d.model.trained_on import TrainedOn
from verse3d.model.weights import in_float32, load_weights, require_sound_weights
from verse3d.version import __version__

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "READABLE_VERSIONS",
    "Checkpoint",
    "TrainedNetwork",
    "installed_versions",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "verify_checkpoint",
]

FORMAT = "verse3d checkpoint"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)


@dataclass(frozen=True)
class TrainedNetwork:
    """A further network in a model file, with what is needed to use it; attributes as in ``Checkpoint``."""

    config: Config
    network: Mapping[str, torch.Tensor]
    epoch: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        return self.config.labels.network_scheme


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
        networks: further networks by name.
        trained_on: what kind of scans it has learnt from; None if nobody knows.
    """

    config: Config
    network: dict[str, torch.Tensor]
    epoch: int
    scores: dict[str, float]
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    networks: Mapping[str, TrainedNetwork] = field(default_factory=dict)
    trained_on: TrainedOn | None = None

    @property
    def method(self) -> Method:
        """What its config asks for."""
        return Method(self.config)

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        return self.config.labels.network_scheme


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint whole or not at all.

    Returns:
        The SHA-256 of its content, for ``verify_checkpoint``.

    Raises:
        OutputError: it cannot be written.
        CheckpointError: its weights are NaN or infinite, or something in it is no plain value.
    """
    content = as_plain(_content(checkpoint))
    try:
        # Of the values, not of the file: the same weights give the same hash wherever and however they are written.
        content["sha256"] = content_sha256(content)
        _require_sound(checkpoint)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not written, what is there is kept: {error}",
            hint="weights become NaN where the learning rate is too high: lower optim.lr, or set runtime.amp to off",
        ) from error
    with whole_file(path) as part, part.open("wb") as handle:
        try:
            torch.save(content, handle)
        except RuntimeError as error:  # PyTorch's word for a write that failed half-way
            reason = error.__context__
            raise output_error(path, reason if isinstance(reason, OSError) else OSError(str(error))) from error
    return str(content["sha256"])


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "labels": _label_ids(checkpoint.scheme),
        "versions": installed_versions(),
        "epoch": checkpoint.epoch,
        "scores": checkpoint.scores,
        "network": checkpoint.network,
        "networks": {
            name: {
                "config": part.config.to_dict(),
                "labels": _label_ids(part.scheme),
                "network": part.network,
                "epoch": part.epoch,
                "scores": part.scores,
            }
            for name, part in checkpoint.networks.items()
        },
        "training": checkpoint.training,
        **({"trained_on": checkpoint.trained_on.model_dump()} if checkpoint.trained_on else {}),
    }


def _label_ids(scheme: LabelScheme) -> dict[str, int]:
    return {label.name: label.id for label in scheme.labels}


def _require_sound(checkpoint: Checkpoint) -> None:
    require_sound_weights(checkpoint.network, "network")
    for name, part in checkpoint.networks.items():
        require_sound_weights(part.network, f"networks.{name}")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, and compare it with its checksum.

    Raises:
        CheckpointError: missing, damaged, unsafe (holds more than plain data), not ours, of a newer version, or with
            weights that are no finite numbers.
    """
    checkpoint, _ = _loaded(path)
    return checkpoint


def verify_checkpoint(path: Path, sha256: str) -> None:
    """Read a file back that ``save_checkpoint`` has just written, for those who are about to delete an older one.

    Args:
        path: of the file.
        sha256: what ``save_checkpoint`` returned.

    Raises:
        CheckpointError: it cannot be loaded, or holds something else than was meant.
    """
    _, found = _loaded(path)
    if found != sha256:
        raise damaged(path, f"its SHA-256 is {found}, {sha256} was written")


def _loaded(path: Path) -> tuple[Checkpoint, str]:
    """A checkpoint and the SHA-256 of its content."""
    content = load_plain(path)
    _require_ours(content, path)
    try:
        stored = read_stored(content)
        # Files of version 1 carry none, and are believed.
        found = content_sha256({key: value for key, value in content.items() if key != "sha256"})
        if stored.sha256 not in (None, found):
            raise damaged(path, "its content does not have the SHA-256 that is written in it")
        checkpoint = _checkpoint(stored, path)
        _require_sound(checkpoint)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is incomplete or inconsistent: {error}",
            hint="copy it again from where it is whole, or use another model file",
        ) from error
    return checkpoint, found


def _require_ours(content: object, path: Path) -> None:
    # Asked first: everything else would be said about a file that was never a model of ours.
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a verse3d model but a PyTorch file with {_described(content)}",
            hint="pass a run folder, or the best.pt in it",
        )
    version = content.get("format_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        versions = content.get("versions")
        writer = str(versions.get("verse3d", "unknown"))[:40] if isinstance(versions, dict) else "unknown"
        raise CheckpointError(
            f"{path} has format version {str(version)[:40]}, this verse3d {__version__} reads versions {known}",
            hint="install the verse3d version that wrote it: " + writer,
        )


def _described(content: object) -> str:
    """What another program put into a file, short."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__} in it"
    names = [str(name)[:40] for name in list(content)[:5]]
    if not names:
        return "the entries (none)"
    more = " ..." if len(content) > 5 else ""
    return f"the entries {', '.join(names)}{more}"


def _checkpoint(stored: StoredCheckpoint, path: Path) -> Checkpoint:
    return Checkpoint(
        config=_config(stored, f"the config inside {path}"),
        network=in_float32(stored.network),
        epoch=stored.epoch,
        scores=stored.scores,
        training=stored.training,
        versions=stored.versions,
        networks={
            name: TrainedNetwork(
                _config(part, f"the config of {name} inside {path}"), part.network, part.epoch, part.scores
            )
            for name, part in stored.networks.items()
        },
        trained_on=stored.trained_on,
    )


def _config(part: StoredPart, source: str) -> Config:
    """The config, if it gives the channels of the network the meaning that the file says.

    Raises:
        ValueError: it does not, or the config has mistakes (ConfigError).
    """
    config = parse_config(part.config, source=source)
    labels = config.labels
    # Channel 3 has to mean the vertebra that it meant in training, whatever this version calls it.
    if part.labels not in (None, _label_ids(labels.network_scheme)):
        scheme = f"{labels.scheme}, named {labels.naming}"
        raise ValueError(f"the labels are not those of the scheme {scheme} in {source}")
    return config


def installed_versions() -> dict[str, str]:
    """Of verse3d and of the libraries that decide what a network computes, as they are here and now."""
    return {
        "verse3d": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": version("monai"),
        "numpy": str(np.__version__),
    }
