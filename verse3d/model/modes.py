"""Ways to segment a volume. A mode is a value: four functions of the config. This is the only place that knows them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from verse3d.core.config import Config, size_problems
from verse3d.core.errors import ConfigError
from verse3d.core.geometry import Geometry, Shape
from verse3d.data.samples.cut import Cut, PatchCut
from verse3d.data.samples.slices import SliceCut
from verse3d.model.losses import build_loss
from verse3d.model.networks import build_network
from verse3d.model.scout import ScoutNetwork, build_scout
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
        tiling: (config, source grid of the scan, shape of the volume on the network grid) -> the pieces that the
            network will look at, and how its answers are put together.
        loss: config -> callable (logits (B, channels, ...), network ids (B, 1, ...)) -> scalar. Raises ``ConfigError``
            if it does not suit the labels.
        scout: config -> a tiny network that finds the spine in the whole field of view; None where nothing is cropped.
    """

    name: str
    default_config: str
    cut: Callable[[Config], Cut]
    network: Callable[[Config], nn.Module]
    tiling: Callable[[Config, Geometry, Shape], Tiling]
    loss: Callable[[Config], nn.Module]
    scout: Callable[[Config], ScoutNetwork] | None = None


def _volume_network(config: Config) -> nn.Module:
    channels = config.labels.network_scheme.output_channels
    return build_network(config.network, spatial_dims=3, output_channels=channels)


def _windows(config: Config, _: Geometry, shape: Shape) -> Tiling:
    return WindowTiling.of(config, shape)


def _slice_network(config: Config) -> nn.Module:
    return build_network(
        config.network,
        spatial_dims=2,
        input_channels=2 * config.slices.neighbours + 1,
        output_channels=config.labels.network_scheme.output_channels,
    )


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
        # All problems at once, each with its setting.
        raise ConfigError("\n".join([f"the config does not suit mode {config.mode}:", *(f"  - {p}" for p in problems)]))
    return SliceCut(config)


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        # name, default config, what is cut, what it is shown to, how a volume is divided, what is minimised, scout
        Mode("3d", "unet3d", PatchCut, _volume_network, _windows, build_loss, build_scout),
        Mode("2d", "slices2d", _single_slices, _slice_network, SliceTiling.of, build_loss),
        Mode("2.5d", "slices25d", _slices_between_neighbours, _slice_network, SliceTiling.of, build_loss),
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


def require_suitable(config: Config) -> None:
    """Check what can be checked before any data is read.

    Raises:
        ConfigError: the mode is unknown, or settings do not go together in it.
    """
    mode = get_mode(config.mode)
    # Both refuse what does not go together, and building a network here would take seconds.
    mode.cut(config)
    mode.loss(config)
