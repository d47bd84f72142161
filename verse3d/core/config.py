"""Settings as typed values: YAML in, one frozen ``Config`` out, or every mistake at once.

YAML here means YAML 1.2: ``1e-4`` is a number, ``off`` is a word and ``1:30`` is a text, not 90.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from verse3d.core.augmenting import NO_AUGMENTATION, AugmentConfig
from verse3d.core.config_text import all_problems, apply_overrides, described, find_config, read_config
from verse3d.core.errors import ConfigError
from verse3d.core.labelling import LabelsConfig
from verse3d.core.scouting import ScoutConfig
from verse3d.core.section import Section as _Section
from verse3d.core.setting_types import (
    AXIS_OF_PLANE,
    ChannelCount,
    Fraction,
    Margin,
    Patch,
    Picture,
    Positive,
    SlicePlane,
    Spacing,
    SpacingMm,
    VoxelCount,
)
from verse3d.core.wording import how_many
from verse3d.core.yaml12 import parse_yaml


class GridConfig(_Section):
    """The network grid: axes towards right, anterior, superior, and what is done to the grey values."""

    spacing_mm: Spacing = (1.5, 1.5, 1.5)
    window_hu: tuple[float, float] = (-250.0, 1250.0)
    """These HU become 0 and 1; what lies outside is clipped."""

    @field_validator("window_hu")
    @classmethod
    def _window_is_ordered(cls, window_hu: tuple[float, float]) -> tuple[float, float]:
        if window_hu[0] >= window_hu[1]:
            raise ValueError(f"must be [low, high] with low < high, got {list(window_hu)}")
        return window_hu


class NetworkConfig(_Section):
    """The network. Every level but the first halves the resolution."""

    name: Literal["unet", "dynunet", "segresnet", "classic"] = "unet"
    channels: Annotated[tuple[ChannelCount, ...], Field(min_length=2, max_length=7)] = (16, 32, 64, 128, 256)
    residual_units: Annotated[int, Field(ge=0, le=8)] = 2
    norm: Literal["instance", "batch"] = "instance"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    upsampling: Literal["transposed", "linear"] = "transposed"
    """How ``classic`` doubles the resolution on its way up: learnt, or interpolated."""

    @field_validator("channels")
    @classmethod
    def _levels_suffice(cls, channels: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if info.data.get("name") == "dynunet" and len(channels) < 3:
            raise ValueError(f"dynunet needs at least 3 levels, got {list(channels)}")
        return channels


class LossConfig(_Section):
    """DiceLoss, alone or with cross-entropy, or binary cross-entropy alone."""

    name: Literal["dice", "dice_ce", "bce"] = "dice"


class SlicesConfig(_Section):
    """Slices of the network grid, for the modes that look at slices."""

    plane: SlicePlane = "sagittal"
    """``as-stored`` cuts across whatever the third axis of each file is, as the tutorials do that never look."""
    size_pixels: Picture = (250, 250)
    """Rows and columns that every slice is stretched to, whatever its own shape is; of a window if ``spacing_mm``."""
    spacing_mm: SpacingMm | None = None
    """Height and width of a pixel; None stretches. It takes the place of ``grid.spacing_mm`` in the plane of the slices
    (``as-stored``: along all axes), and a slice is seen in windows of ``size_pixels``, so that a vertebra has one size
    in pixels whatever the field of view is."""
    neighbours: Annotated[int, Field(ge=0, le=16)] = 0
    """Slices on each side that are shown with the one to segment (mode 2.5d)."""


class SamplingConfig(_Section):
    """Random patches of the network grid."""

    patch_voxels: Patch = (96, 96, 96)
    batch_size: VoxelCount = 2
    foreground_fraction: Fraction = 0.67
    """Share of patches that are centred on a vertebra; the others are centred anywhere else."""
    margin_voxels: Margin = (0, 0, 0)
    """How far patches and windows may reach beyond the scan (right, anterior, superior), where the network sees air:
    so it can tell a vertebra that the field of view cuts, which VerSe leaves unlabelled, from a whole one."""


class OptimConfig(_Section):
    """The optimizer, and how its rate changes after a linear warm-up: half a cosine to zero, or whenever the
    validation no longer improves."""

    name: Literal["adamw", "rmsprop"] = "adamw"
    lr: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of RMSprop."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    plateau_patience: Annotated[int, Field(ge=0)] = 2
    """So many validations without a better Dice are borne; the next one lowers the rate."""
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    epochs: Annotated[int, Field(ge=1)] = 200
    steps_per_epoch: Annotated[int, Field(ge=1)] = 50
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    clip_grad_norm: Annotated[float, Field(ge=0.0)] = 5.0
    """Longest allowed gradient; 0 turns clipping off."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of a running mean of the weights, which is then the one validated and saved as best; 0 turns it off."""


class RuntimeConfig(_Section):
    """Numbers that change speed and repeatability, not the method."""

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] = "auto"
    """Processes that read patches; 0 reads them in the training process. ``auto`` chooses by the machine's cores."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether ``torch.compile`` makes kernels for this network; ``on`` is an error where it cannot."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Whether a step is recorded once on a GPU and then launched as a whole; ``on`` is an error where it cannot."""
    save_minutes: Annotated[float, Field(ge=0.0, le=1e6)] = 5.0
    """A run is saved after so many minutes, beside the ends of epochs; 0 saves after every batch."""
    deterministic: bool = False
    """Whether everything is planned in iterations, never in seconds, and the GPU may use repeatable kernels only."""


class ValidationConfig(_Section):
    """The loss on patches of the validation scans after every epoch, and whole scans on their source grids."""

    every_epochs: Annotated[int, Field(ge=1)] = 5
    """Whole scans are segmented and scored after every so many epochs, or less often: see ``time_share``."""
    time_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Largest share of the time that whole scans may take; if they took more, some validations are left out (never
    cases, and never the last one). 1 leaves none out; nor does a run that is ``runtime.deterministic``, or whose rate
    follows the validation."""
    loss_batches: Annotated[int, Field(ge=0, le=100_000)] = 8
    """Batches of unchanging patches without augmentation that the loss is measured on after every epoch."""
    pictures: Annotated[int, Field(ge=0)] = 2
    """How many validation cases are drawn in TensorBoard."""


class InferenceConfig(_Section):
    """Sliding windows over the network grid, and the clean-up on the source grid."""

    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    """How windows are weighted where they overlap: their centres most, or all voxels alike."""
    windows_per_batch: VoxelCount = 1
    min_component_ml: Annotated[float, Field(ge=0.0)] = 0.5
    """Connected components of a label that are smaller are removed; 0 keeps all."""
    largest_component_only: bool = False


class Config(_Section):
    """Everything that decides what a run does. Stored in the run folder and in every checkpoint."""

    mode: str = "3d"
    labels: LabelsConfig = LabelsConfig()
    grid: GridConfig = GridConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    slices: SlicesConfig = SlicesConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    validation: ValidationConfig = ValidationConfig()
    inference: InferenceConfig = InferenceConfig()
    scout: ScoutConfig = ScoutConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and words, as they go into YAML and checkpoints."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The complete configuration as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)


def without_augmentation(config: Config) -> Config:
    """The config with every probability of ``augment`` at 0."""
    return config.model_copy(update={"augment": NO_AUGMENTATION})


def parse_config(values: Mapping[str, Any], *, source: str = "config") -> Config:
    """Check plain values and return the config.

    Raises:
        ConfigError: lists every problem at once, each with its place and, for unknown keys, the nearest spelling.
    """
    config, problems = _checked(values)
    if config is None:
        raise ConfigError(all_problems(source, problems))
    return config


def _checked(values: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The config, or None and everything that is wrong with it."""
    problems = []
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems = [described(problem, Config) for problem in error.errors(include_url=False, include_context=False)]
    problems += _patch_problems(values)
    return (None, problems) if problems or config is None else (_with_pixels(config), [])


def _with_pixels(config: Config) -> Config:
    """The config with the pixels that its slices ask for, if they do, as voxels of its network grid.

    So a scan is interpolated once, on its way to the network grid, and a window of a slice is a box of voxels.
    """
    pixel, across = config.slices.spacing_mm, AXIS_OF_PLANE.get(config.slices.plane)
    if pixel is None:
        return config
    # sagittal, 1 mm:  (1.5, 1.5, 1.5) -> (1.5, 1.0, 1.0)        as-stored: any axis may lie in the plane, so all three
    i, j, k = (spacing if axis == across else pixel for axis, spacing in enumerate(config.grid.spacing_mm))
    return config.model_copy(update={"grid": config.grid.model_copy(update={"spacing_mm": (i, j, k)})})


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, given by path or by the name of one that comes with verse3d, and apply ``KEY=VALUE`` overrides.

    Args:
        name_or_path: e.g. ``"unet3d"`` or ``"configs/mine.yaml"``.
        overrides: e.g. ``["optim.lr=3e-4", "sampling.patch_voxels=[64, 64, 64]"]``.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds mistakes (all are listed).
    """
    path = find_config(name_or_path)
    values = parse_yaml(read_config(path), str(path))
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as 'optim:', found {type(values).__name__}")
    return changed_config(values, overrides, source=str(path))


def changed_config(values: dict[str, Any], overrides: Sequence[str], *, source: str) -> Config:
    """Plain values, changed by overrides as in ``load_config``; raises as that."""
    before = copy.deepcopy(values)
    malformed = apply_overrides(values, overrides)
    config, problems = _checked(values)
    if config is not None and not malformed:
        return config
    if overrides and not _checked(before)[1]:  # the file by itself is right
        raise ConfigError(all_problems("`overrides`", [*malformed, *problems]), option="overrides")
    told = {"`overrides`": malformed, source: problems}
    raise ConfigError("\n".join(all_problems(whose, listed) for whose, listed in told.items() if listed))


def _patch_problems(values: Mapping[str, Any]) -> list[str]:
    """Whether the patch can be halved as often as the network wants; nothing if either section is wrong by itself.

    A single voxel must not remain: the normalisation layers take a mean and a deviation over the voxels.
    """
    try:
        network = NetworkConfig.model_validate(values.get("network", {}))
        patch = SamplingConfig.model_validate(values.get("sampling", {})).patch_voxels
    except ValidationError:
        return []
    return [f"sampling.patch_voxels: {problem}" for problem in size_problems(network, patch)]


def size_problems(network: NetworkConfig, size: Sequence[int]) -> list[str]:
    """Why a network cannot be trained on patches (or slices) of this size: at most one reason.

    A single voxel must not remain: the normalisation layers take a mean and a deviation over the voxels.
    """
    levels = len(network.channels)
    factor = 2 ** (levels - 1)
    halved = f"the {levels} levels of network.channels halve the size {how_many(levels - 1, 'time')}, got {list(size)}"
    if network.name != "classic" and any(length % factor for length in size):
        return [f"must be multiples of {factor}, because {halved}"]
    remaining = [length // factor for length in size]
    if math.prod(remaining) <= 1:
        return [f"must be larger, because {'a single voxel' if all(remaining) else 'nothing'} would remain: {halved}"]
    return []
