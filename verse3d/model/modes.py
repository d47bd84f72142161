"""Ways to segment a volume. A mode is a value: functions of the config. This is the only place that knows them.

    config  --->  Method(config)  --->  cut, network, loss      training
                                        tiling, network         inference

A ``Method`` is made once, where a config comes in; from there on nobody asks for the mode again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from verse3d.core.config import (
    Config,
    GridConfig,
    InferenceConfig,
    NetworkConfig,
    SamplingConfig,
    size_problems,
    without_augmentation,
)
from verse3d.core.errors import ConfigError
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.data.samples.cut import Cut, PatchCut
from verse3d.data.samples.slice_windows import SliceWindowCut
from verse3d.data.samples.slices import SliceCut
from verse3d.model.losses import AddUp, build_loss
from verse3d.model.networks import build_network
from verse3d.model.scout import ScoutNetwork
from verse3d.model.slice_windows import SliceWindowTiling
from verse3d.model.tilings import SliceTiling, Tiling, WindowTiling


@dataclass(frozen=True)
class Mode:
    """How patches are drawn, learnt from and put together again.

    Attributes:
        name: as ``config.mode`` says it: "3d", "2d" or "2.5d".
        default_config: name of the shipped config that is used when none is given.
        cut: config -> what a worker does: from a ``PatchSource`` and a random state to a ``Box``, which ``Augment``
            makes a sample of on the training device. Raises ``ConfigError`` if settings contradict each other in
            this mode.
        network: config -> network from (B, n, ...) to logits (B, channels, ...).
        tiling: (config, source grid of the scan, shape of the volume on the network grid) -> the windows that the
            network will look at, and how its scores are put together.
        loss: config -> callable (logits (B, channels, ...), network ids (B, 1, ...)) -> scalar. Raises ``ConfigError``
            if it does not suit the labels.
        windows: config -> the settings that decide which windows these are, by name. Models are averaged window by
            window, so they must share them.
        scout: config -> a tiny network that finds the spine in the whole field of view; None where nothing is cropped.
        without_gpu: name of the shipped config that learns in half an hour of two cores; "" if there is none.
    """

    name: str
    default_config: str
    cut: Callable[[Config], Cut]
    network: Callable[[Config], nn.Module]
    tiling: Callable[[Config, Geometry, Shape], Tiling]
    loss: Callable[[Config], nn.Module]
    windows: Callable[[Config], Mapping[str, object]]
    scout: Callable[[Config], ScoutNetwork] | None = None
    without_gpu: str = ""


def _patches(config: Config) -> Cut:
    if config.slices.spacing_mm is not None:
        raise _unsuitable(config, ["slices.spacing_mm: is of slices; patches have grid.spacing_mm"])
    return PatchCut(config.sampling, config.augment, config.grid.spacing_mm)


def _volume_network(config: Config) -> nn.Module:
    channels = config.labels.network_scheme.output_channels
    return build_network(config.network, spatial_dims=3, output_channels=channels)


def _windows(config: Config, _: Geometry, shape: Shape) -> Tiling:
    return WindowTiling.of(config.sampling, config.inference, shape)


def _window_settings(config: Config) -> Mapping[str, object]:
    return {
        "sampling.patch_voxels": config.sampling.patch_voxels,
        "sampling.margin_voxels": config.sampling.margin_voxels,
        "inference.overlap": config.inference.overlap,
        "inference.blending": config.inference.blending,
    }


def _scout(config: Config) -> ScoutNetwork:
    return ScoutNetwork(config.scout.channels)


def _slice_network(config: Config) -> nn.Module:
    return build_network(
        config.network,
        spatial_dims=2,
        input_channels=2 * config.slices.neighbours + 1,
        output_channels=config.labels.network_scheme.output_channels,
    )


def _slices(config: Config, source: Geometry, shape: Shape) -> Tiling:
    if config.slices.spacing_mm is None:
        return SliceTiling.of(config.slices, source, shape)
    return SliceWindowTiling.covering(config.slices, config.inference, source, shape)


def _slice_settings(config: Config) -> Mapping[str, object]:
    settings = {f"slices.{key}": value for key, value in config.slices.model_dump().items()}
    if config.slices.spacing_mm is None:
        return settings
    # Windows overlap, stretched slices do not.
    return settings | {key: value for key, value in _window_settings(config).items() if key.startswith("inference.")}


def _single_slices(config: Config) -> Cut:
    problems = _slice_problems(config)
    if config.slices.neighbours:
        problems.append("slices.neighbours: mode 2d sees one slice at a time; mode 2.5d sees its neighbours, too")
    return _cut_without(problems, config)


def _slices_between_neighbours(config: Config) -> Cut:
    problems = _slice_problems(config)
    if not config.slices.neighbours:
        problems.append("slices.neighbours: must be at least 1 in mode 2.5d")
    return _cut_without(problems, config)


def _slice_problems(config: Config) -> list[str]:
    problems = [
        f"slices.size_pixels: {problem}" for problem in size_problems(config.network, config.slices.size_pixels)
    ]
    if config.labels.by_sequence:
        problems.append("labels.naming: slices do not show which voxels are one bone, it must be direct")
    if any(config.sampling.margin_voxels):
        problems.append("sampling.margin_voxels: slices show all of the scan and nothing beyond, it must be 0")
    return problems


def _cut_without(problems: list[str], config: Config) -> Cut:
    if problems:
        raise _unsuitable(config, problems)
    if config.slices.spacing_mm is not None:
        return SliceWindowCut(config.slices, config.augment, config.sampling.foreground_fraction)
    return SliceCut(config.slices, config.augment, config.sampling.foreground_fraction, config.grid.spacing_mm)


def _unsuitable(config: Config, problems: list[str]) -> ConfigError:
    """All problems at once, each with its setting."""
    return ConfigError("\n".join([f"the config does not suit mode {config.mode}:", *(f"  - {p}" for p in problems)]))


def _loss(config: Config) -> nn.Module:
    return build_loss(config.loss, config.labels, config.grid.spacing_mm)


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        # name, default config, what is cut, what it is shown to, how a volume is divided, what is minimised, what
        # decides about the windows, scout, config without a GPU
        Mode("3d", "unet3d", _patches, _volume_network, _windows, _loss, _window_settings, _scout, "unet3d-cpu"),
        Mode("2d", "slices2d", _single_slices, _slice_network, _slices, _loss, _slice_settings, None, "slices2d-cpu"),
        Mode("2.5d", "slices25d", _slices_between_neighbours, _slice_network, _slices, _loss, _slice_settings),
    )
}


def get_mode(name: str) -> Mode:
    """The mode of that name.

    Raises:
        ConfigError: there is no such mode.
    """
    if name not in MODES:
        raise ConfigError(f"mode {name!r} is unknown; expected one of {sorted(MODES)}")
    return MODES[name]


class Method:
    """A config, resolved: all that training and predicting ask of it, so that neither has to know it.

    Args:
        config: complete.

    Attributes:
        mode: the name of its mode.
        grid, sampling, inference, architecture: its sections (``architecture`` is ``network``).
        scheme: what masks tell apart ...
        network_scheme: ... and what the network does; the same, unless vertebrae are named by their sequence.
        cut_scheme: the name of the scheme that patches are cut in.
        by_sequence: whether names are given to the whole spine at once.
        ignores_cut: whether bone that may be a vertebra which the scan cuts teaches nothing.
        ignores_automatic_borders: whether borders in masks that a program made teach nothing.
        has_scout: whether the mode knows a network that finds the spine first.

    Raises:
        ConfigError: there is no such mode.
    """

    def __init__(self, config: Config) -> None:
        self._mode, self._config = get_mode(config.mode), config
        self.mode: str = config.mode
        self.grid: GridConfig = config.grid
        self.sampling: SamplingConfig = config.sampling
        self.inference: InferenceConfig = config.inference
        self.architecture: NetworkConfig = config.network
        self.scheme: LabelScheme = label_scheme(config.labels.scheme)
        self.network_scheme: LabelScheme = config.labels.network_scheme
        self.cut_scheme: Literal["binary", "vertebrae", "bones"] = config.labels.trained_on
        self.by_sequence: bool = config.labels.by_sequence
        self.ignores_cut: bool = config.labels.ignores_cut
        self.ignores_automatic_borders: bool = config.labels.ignores_automatic_borders
        self.has_scout: bool = self._mode.scout is not None

    @property
    def settings(self) -> dict[str, Any]:
        """The complete config as plain values, to be written down."""
        return self._config.to_dict()

    @property
    def shared(self) -> dict[str, object]:
        """What another model must have in common with this one for their scores to be averaged, by setting."""
        return {
            "labels.scheme": self._config.labels.scheme,
            "labels.naming": self._config.labels.naming,
            "grid.spacing_mm": self.grid.spacing_mm,
            "grid.window_hu": self.grid.window_hu,
            "mode": self.mode,
            **self._mode.windows(self._config),
            "inference.min_component_ml": self.inference.min_component_ml,
            "inference.largest_component_only": self.inference.largest_component_only,
        }

    def cut(self, *, augmented: bool = True) -> Cut:
        """What a worker does for a sample, with or without random changes.

        Raises:
            ConfigError: settings contradict each other in this mode.
        """
        return self._mode.cut(self._config if augmented else without_augmentation(self._config))

    def network(self) -> nn.Module:
        """A new network, from (B, n, ...) to logits (B, channels, ...), drawn from PyTorch's random state."""
        return self._mode.network(self._config)

    def loss(self) -> nn.Module:
        """From logits (B, channels, ...) and network ids (B, 1, ...) to a scalar.

        Raises:
            ConfigError: the loss does not suit the labels.
        """
        return self._mode.loss(self._config)

    def joint_loss(self, add_up: AddUp) -> nn.Module:
        """The same for a batch whose samples lie in several processes, which exchange sums with ``add_up``."""
        return build_loss(self._config.loss, self._config.labels, self.grid.spacing_mm, add_up)

    def tiling(self, source: Geometry, shape: Shape) -> Tiling:
        """The windows of a volume of ``shape`` on the network grid of the scan ``source``."""
        return self._mode.tiling(self._config, source, shape)

    def scout(self) -> ScoutNetwork:
        """A new network that finds the spine in the whole field of view; ValueError where ``has_scout`` is False."""
        if self._mode.scout is None:
            raise ValueError(f"mode {self.mode} has no scout")
        return self._mode.scout(self._config)


def require_suitable(config: Config) -> None:
    """Check what can be checked before any data is read.

    Raises:
        ConfigError: the mode is unknown, or settings do not go together in it.
    """
    method = Method(config)
    # Both refuse what does not go together, and building a network here would take seconds.
    method.cut()
    method.loss()
