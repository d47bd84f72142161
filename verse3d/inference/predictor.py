"""From a scan to labels on its own grid, step by step, with everything that was needed to open the model."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from verse3d.core.geometry import Geometry, Shape
from verse3d.core.logs import Progress, no_progress
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.resample import Ready, all_ready
from verse3d.core.runtime import Precision, rss_mb
from verse3d.core.volume import Volume
from verse3d.data.samples.grid import prepare_image_float16
from verse3d.inference.aggregator import Aggregator, BinaryAggregator, MulticlassAggregator
from verse3d.inference.backends import Backend, torch_backend
from verse3d.inference.body_mask import BodyMask
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.naming import LevelMaps, SequenceNaming, level_maps
from verse3d.inference.oom_fallback import Placement
from verse3d.inference.overview import overview
from verse3d.inference.postprocess import clean_up
from verse3d.inference.sliding_window import StreamSettings, segment
from verse3d.inference.spine_crop import (
    NO_SCOUTS,
    CroppedGrids,
    CropRecord,
    PastedAggregator,
    Scouts,
    SpineRegion,
    covered_share,
    moved,
)
from verse3d.labelling.vertebrae import NamedBones
from verse3d.model.modes import Method
from verse3d.model.tilings import Tiling
from verse3d.model.trained_on import TrainedOn


@dataclass(frozen=True)
class NetworkPass:
    """What the networks did with a volume: the windows that they were shown, and all there are.

    Attributes:
        windows, of: these two.
        seconds: that the networks took.
        crop: what the scouts did.
        levels: what networks that see the whole scan say about levels; None if nobody asked, or nothing was seen.
    """

    windows: int
    of: int
    seconds: float = 0.0
    crop: CropRecord = field(default_factory=CropRecord)
    levels: LevelMaps | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Ensemble with everything needed to label whole volumes.

    Attributes:
        placement: the networks, and where they run.
        method: of the (first) network: label scheme, grid, windows, clean-up.
        skip_air: whether windows that hold nothing of the patient are left out (see ``BodyMask``); they are background.
        scouts: say where the spine is; the rest is background.
        naming: how bones get their names, if that follows from their sequence.
        trained_on: what the models have seen; None if one of them does not tell.
    """

    placement: Placement
    method: Method
    skip_air: bool = True
    scouts: Scouts = NO_SCOUTS
    naming: SequenceNaming | None = None
    trained_on: TrainedOn | None = None

    @classmethod
    def of_ensemble(
        cls,
        ensemble: Ensemble,
        method: Method,
        *,
        skip_air: bool = True,
        scouts: Scouts = NO_SCOUTS,
        naming: SequenceNaming | None = None,
        trained_on: TrainedOn | None = None,
    ) -> Self:
        """The networks of an ensemble, where they are now."""
        return cls(Placement(ensemble), method, skip_air, scouts, naming, trained_on)

    @classmethod
    def of_network(cls, network: nn.Module, method: Method, device: torch.device, precision: Precision) -> Self:
        """A single network on ``device``, in evaluation mode, run by PyTorch."""
        return cls.of_ensemble(Ensemble([torch_backend(network, device, precision)]), method)

    @property
    def mask_settings(self) -> dict[str, Any]:
        """What decides about a mask beside the model files themselves; plain values."""
        inference = self.method.inference
        return {
            "tta": self.placement.ensemble.ask_mirrored,
            "skip_air": self.skip_air,
            "min_component_ml": inference.min_component_ml,
            "largest_component_only": inference.largest_component_only,
            **(self.naming.mask_settings if self.naming else {}),
        }

    @property
    def backend(self) -> Backend:
        """What runs the (first) network."""
        return self.placement.ensemble.backends[0]

    @property
    def settings(self) -> StreamSettings:
        """Those of the method, for volumes that are not planned."""
        sums_dtype = self.placement.ensemble.sums_dtype(self.method.network_scheme.output_channels)
        return StreamSettings(self.method.inference.windows_per_batch, sums_dtype)

    def prepare(self, volume: Volume, ready: Ready = all_ready) -> tuple[NDArray[np.float16], Geometry]:
        """A scan on the network grid, (I, J, K) 0 ... 1, and that grid; ``ready`` follows one that is still being read.

        float16, as in training and validation, so the validation Dice is that of masks written later.
        """
        return prepare_image_float16(volume, self.method.grid, ready)

    def tiling(self, shape: Shape, source: Geometry) -> Tiling:
        """The windows of a volume of ``shape`` on the network grid of ``source``."""
        return self.method.tiling(source, shape)

    def segment(
        self,
        image: NDArray[np.floating],
        grid: Geometry,
        source: Geometry,
        settings: StreamSettings,
        *,
        ids: NDArray[np.uint8] | None = None,
        progress: Progress = no_progress,
    ) -> tuple[Aggregator, NetworkPass]:
        """What the network says about a prepared image (I, J, K) on the network ``grid`` of the scan ``source``.

        Args:
            image: from ``prepare``, as the two grids.
            grid: of the network.
            source: of the scan.
            settings: of the streaming.
            ids: the id that the mask has for each network id, uint8; None means file ids.
            progress: told about the windows.
        """
        if ids is None:
            ids = self.method.network_scheme.file_from_network(self._network_ids)
        started = time.perf_counter()
        levels, spine = self._look_at_all(image, grid)
        scouting = time.perf_counter() - started if self.scouts.networks or self.naming else 0.0
        part = CroppedGrids.whole(grid, source)
        if spine is not None:
            sampling = self.method.sampling
            part = CroppedGrids.of(spine.crop(grid.shape, sampling.patch_voxels, sampling.margin_voxels), grid, source)
        image, tiling = part.cut(image), self.tiling(part.grid.shape, source)
        give_back_freed_memory()  # of the scouts, whose layers are larger than any of a window
        wanted = self._wanted(image, tiling, part, spine)
        self.placement.start_volume()
        aggregator: Aggregator = (
            BinaryAggregator(part.grid, part.source, int(ids[1]))
            if self.method.network_scheme.output_channels == 1
            else MulticlassAggregator(part.grid, part.source, tiling.axis, ids)
        )
        seconds = segment(
            image, tiling, self.placement, settings=settings, take=aggregator.take, wanted=wanted, progress=progress
        )
        if part.source.shape != source.shape:
            aggregator = PastedAggregator(aggregator, source.shape, part.source_box)
        skipped = 1.0 - covered_share((tiling.regions[number] for number in wanted), part.box, grid.shape)
        why = ""
        if spine is None and self.skip_air:
            why = "no spine was found in a first look at 4 mm" if self.scouts.networks else self.scouts.absence
        crop = CropRecord(
            box=[(along.start, along.stop) for along in part.box] if spine is not None else (),
            why=why,
            skipped=skipped,
            seconds=scouting,
        )
        return aggregator, NetworkPass(len(wanted), len(self.tiling(grid.shape, source).regions), seconds, crop, levels)

    def _look_at_all(self, image: NDArray[np.floating], grid: Geometry) -> tuple[LevelMaps | None, SpineRegion | None]:
        """What is said about levels, and where the spine is; None if nobody asked or nothing was seen."""
        if self.naming is None:
            return None, self.scouts.find(image, grid)
        if not self.scouts.networks or self.scouts.networks is not self.naming.networks:
            return self.naming.look(image, grid, self.method.grid.window_hu), self.scouts.find(image, grid)
        seen = overview(self.naming.networks, image, grid, levels=True)  # the same networks know both
        window_hu = self.method.grid.window_hu
        return level_maps(seen, image, grid, window_hu), SpineRegion.of(seen.spine, grid.spacing_mm)

    @property
    def _network_ids(self) -> NDArray[np.uint8]:
        return np.arange(1 + len(self.method.network_scheme.labels), dtype=np.uint8)

    def _wanted(
        self, image: NDArray[np.floating], tiling: Tiling, part: CroppedGrids, spine: SpineRegion | None
    ) -> Sequence[int]:
        """The windows of the image of a part that hold something of the patient, and if that is known of the spine."""
        regions = tiling.regions
        if not self.skip_air:
            return range(len(regions))
        body = BodyMask.of(image, self.method.grid)
        return [
            number
            for number, region in enumerate(regions)
            if body.touches(region) and (spine is None or spine.touches(moved(region, part.box)))
        ]

    def network_ids(self, image: NDArray[np.floating], grid: Geometry, source: Geometry) -> NDArray[np.uint8]:
        """Segment a prepared image (I, J, K) on the network ``grid``; cleaned network ids, uint8, on ``source``."""
        aggregator, _ = self.segment(image, grid, source, self.settings, ids=self._network_ids)
        labels = aggregator.mask()
        return labels if self.method.by_sequence else clean_up(labels, source, self.method.inference)

    def label(self, volume: Volume, progress: Progress = no_progress) -> NDArray[np.uint8]:
        """The labels of a scan as file ids, uint8 (I, J, K) on the source grid."""
        image, grid = self.prepare(volume)
        aggregator, seen = self.segment(image, grid, volume.geometry, self.settings, progress=progress)
        labels = aggregator.mask()
        self.finish(labels, volume.geometry, seen.levels)
        return labels

    def finish(self, labels: NDArray[np.uint8], source: Geometry, levels: LevelMaps | None) -> NamedBones | None:
        """Clean labels (I, J, K) on the grid ``source``, or name their bones, in place; the names, if they are new.

        Where bones are named, what is too small is left out while they are grouped: a part of a bone may be small.
        """
        if self.method.by_sequence:
            return (self.naming or SequenceNaming()).name(labels, source, levels)
        clean_up(labels, source, self.method.inference)
        return None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Float32 logits (B, channels, ...) on the CPU of what the network looks at once, (B, n, ...)."""
        with torch.inference_mode():
            return self.backend(windows.to(self.backend.device)).float().cpu()

    @property
    def mirror_differs(self) -> bool:
        """Whether the network would see something else in the mirror."""
        return self.tiling((1, 1, 1), _SMALLEST).mirror_differs

    def make_ready(self) -> None:
        """Do now what else the first window would have to wait for.

        Raises:
            CheckpointError: the weights do not fit the network of the config.
        """
        shape = self.tiling((1, 1, 1), _SMALLEST).window_shape
        for backend in self.placement.ensemble.backends:
            backend.make_ready(shape)

    def least_window_mb(self) -> float:
        """What one window takes at the very least, MB: itself, its weights, its scores and the network's first level.

        Who tries more is killed. The first level is counted at half the resolution, at which some networks begin.
        """
        shape = self.tiling((1, 1, 1), _SMALLEST).window_shape
        halves = self.method.architecture.channels[0] / 2.0 ** len(shape[1:])
        return (shape[0] + 1 + self.method.network_scheme.output_channels + halves) * math.prod(shape[1:]) * 4 / 1e6

    def window_mb(self) -> float:
        """Memory that one window takes on its way through the network, MB, measured with an empty one.

        The second call takes more than the first: parts of what that one freed are in use. A backend that has to prove
        itself holds its logits beside PyTorch's when the first real window comes.
        """
        shape = self.tiling((1, 1, 1), _SMALLEST).window_shape
        empty = torch.zeros((1, *shape), device=self.backend.device)
        before = rss_mb()
        with MemoryWatch(_WINDOW_WATCH_SECONDS) as watch, torch.inference_mode():
            peak = watch.peak()
            for _ in range(2):
                self.placement.ensemble.scores(empty, _as_it_is, _as_it_is)
            peak_mb = peak.mb
        logits_mb = self.method.network_scheme.output_channels * math.prod(shape[1:]) * 4 / 1e6
        to_prove = any(backend.has_to_prove_itself for backend in self.placement.ensemble.backends)
        return max(0.0, peak_mb - before) + (_LOGITS_IN_HOLES + _LOGITS_IN_PROOF * to_prove) * logits_mb


_LOGITS_IN_PROOF, _LOGITS_IN_HOLES = 4, 3
"""Float32 logits that would fit into what the C library keeps of freed pieces, where small blocks lie between: after 80
windows of 27 channels 171 and 227 MB were missing in two runs; three are 286 MB, and 11 MB with one channel."""
_WINDOW_WATCH_SECONDS, _SMALLEST = 0.001, Geometry((1, 1, 1), np.eye(4))


def _as_it_is(windows: torch.Tensor) -> torch.Tensor:
    return windows
