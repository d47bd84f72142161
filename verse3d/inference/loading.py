"""Opening one model, or several that judge together."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from verse3d.core.errors import ConfigError
from verse3d.core.files import sha256_of
from verse3d.core.memory import keep_freed_memory, share_freed_memory
from verse3d.core.runtime import choose_precision, installed_version
from verse3d.inference.backends import Backend, open_backend
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.naming import SequenceNaming
from verse3d.inference.predictor import Predictor
from verse3d.inference.spine_crop import NO_SCOUTS, Scouts
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, load_weights
from verse3d.model.modes import Method, get_mode
from verse3d.model.scout import SCOUT, USABLE, ScoutNetwork
from verse3d.model.trained_on import TrainedOn
from verse3d.version import __version__

_NAMED = ("torch", "monai", "numpy", "nibabel", "openvino")


def open_predictor(
    paths: Sequence[Path],
    device: torch.device,
    *,
    backend: str = "auto",
    tta: bool = False,
    skip_air: bool = True,
    keep_partial: bool = False,
) -> Predictor:
    """Read one or several model files.

    Args:
        paths: of the models; of several the probabilities are averaged.
        device: where they run.
        backend: see ``backends.open_backend``.
        tta: also ask about the mirror image (left and right exchanged).
        skip_air: see ``Predictor``; without it no scout is asked where the spine is, either.
        keep_partial: let masks show vertebrae that the scan cuts, where bones are named by their sequence.

    Raises:
        CheckpointError: a file is damaged, unsafe, of another version, or not a model.
        ConfigError: the models cannot judge together, the mirror image is the same, or the backend cannot be had.
    """
    # Windows come and go by the hundred; memory given back after each is asked for again at once.
    if device.type == "cpu":
        keep_freed_memory()
    checkpoints = [load_checkpoint(path) for path in paths]
    first = checkpoints[0].method
    if device.type == "cpu" and first.network_scheme.output_channels == 1:
        share_freed_memory()  # windows of one label are computed side by side
    for path, checkpoint in zip(paths[1:], checkpoints[1:], strict=True):
        _require_shared(first, checkpoint.method, paths[0], path)
    ensemble = Ensemble([_opened(*member, device, backend) for member in zip(checkpoints, paths, strict=True)], tta)
    scouts = open_scouts(checkpoints, paths, device) if skip_air else NO_SCOUTS
    naming = None
    if first.by_sequence:
        # Every model has one of those that crop, and each of them knows levels: it is opened and looks once.
        seeing = scouts.networks or open_level_networks(checkpoints, paths, device)
        naming = SequenceNaming(seeing, keep_partial)
    trained_on = TrainedOn.joined(checkpoint.trained_on for checkpoint in checkpoints)
    predictor = Predictor.of_ensemble(
        ensemble, first, skip_air=skip_air, scouts=scouts, naming=naming, trained_on=trained_on
    )
    if tta and not predictor.mirror_differs:
        raise ConfigError(
            "`tta` asks about the mirror image, but a sagittal slice looks the same with left and right exchanged",
            hint="leave `tta` out, or use a 3d or 2.5d model",
            option="tta",
        )
    return predictor


def open_scouts(checkpoints: Sequence[Checkpoint], paths: Sequence[Path], device: torch.device) -> Scouts:
    """The scouts of all models; none if one of the models has none that may be trusted, or its mode knows none.

    Raises:
        CheckpointError: the weights of a scout do not fit its config.
    """
    networks = []
    for checkpoint, path in zip(checkpoints, paths, strict=True):
        build, stored = get_mode(checkpoint.config.mode).scout, checkpoint.networks.get(SCOUT)
        if build is None:
            return NO_SCOUTS
        if stored is None:
            return Scouts(absence=f"{path.name} holds no scout, the small network that looks for the spine first")
        if stored.scores.get(USABLE) != 1.0:
            # One that has missed a spine in its validation would hide vertebrae from the network.
            return Scouts(
                absence=f"the scout in {path.name}, which looks for the spine first, was not found to be reliable"
            )
        network = build(stored.config)
        load_weights(network, stored.network, path)
        networks.append(network.to(device).eval())
    return Scouts(networks)


def open_level_networks(
    checkpoints: Sequence[Checkpoint], paths: Sequence[Path], device: torch.device
) -> Sequence[ScoutNetwork]:
    """What sees levels, of all models that have it. A scout that misses a process still knows its level.

    Raises:
        CheckpointError: the weights of a scout do not fit its config.
    """
    networks = []
    for checkpoint, path in zip(checkpoints, paths, strict=True):
        build, stored = get_mode(checkpoint.config.mode).scout, checkpoint.networks.get(SCOUT)
        if build is not None and stored is not None:
            network = build(stored.config)
            load_weights(network, stored.network, path)
            networks.append(network.to(device).eval())
    return networks


def _opened(checkpoint: Checkpoint, path: Path, device: torch.device, backend: str) -> Backend:
    # The run's precision where the device has it; a model trained in fp16 on a GPU also runs on a CPU.
    amp = checkpoint.config.runtime.amp
    if amp == "fp16" and device.type == "cpu":
        amp = "auto"
    return open_backend(backend, checkpoint, path, device, choose_precision(amp, device))


def _require_shared(one: Method, other: Method, one_path: Path, other_path: Path) -> None:
    """Models are averaged window by window, so they must see the same windows and tell the same labels apart.

    Raises:
        ConfigError: says in which settings they differ.
    """
    here, there = one.shared, other.shared
    common = [key for key in here if key in there]  # windows and slices have settings of their own
    # All at once, as for a config: the user should not meet them one by one.
    different = [f"  - {key}: {here[key]} and {there[key]}" for key in common if here[key] != there[key]]
    if different:
        raise ConfigError(
            "\n".join([f"{one_path} and {other_path} cannot be averaged, they differ in", *different]),
            hint="predict with each of them by itself",
        )


def models_sha256(paths: Sequence[Path]) -> str:
    """The SHA-256 of the model files, joined by "+"."""
    return "+".join(sha256_of(path) for path in paths)


def described(predictor: Predictor, paths: Sequence[Path]) -> dict[str, Any]:
    """What the list of predictions says about a call as a whole; plain values."""
    backend = predictor.backend
    return {
        "verse3d": __version__,
        "model": str(paths[0]),
        "models": [str(path) for path in paths],
        "scheme": predictor.method.scheme.name,
        "device": str(backend.device),
        "backends": [one.record() for one in predictor.placement.ensemble.backends],
        "tta": predictor.placement.ensemble.ask_mirrored,
        "skip_air": predictor.skip_air,
        "scouts": len(predictor.scouts.networks),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in _NAMED}},
        "config": predictor.method.settings,
    }
