"""What the training device does with a batch of boxes: resample, then change grey values. No random number is drawn
here but the noise itself, from the sample's own seed.

The boxes of a batch differ in size, so they are taken one after the other; a sample never depends on its neighbours.
Parameters are plain numbers on the host: nothing here waits for a GPU.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import grid_sample, interpolate

from verse3d.core.axes import LEFT_RIGHT
from verse3d.core.single_threaded import in_ranges_single_threaded
from verse3d.data.samples.draws import Changes, Warp
from verse3d.data.samples.filters import axis_filter, filter_axis
from verse3d.data.samples.interpolation import PaddedBox
from verse3d.data.samples.packing import BoxTensors

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_VOLUME = 3
_SLAB = 1 << 16
"""Voxels that a CPU resamples at once: few enough for the cache of a core, enough to be shared out to two."""


class Augment:
    """Makes a batch of samples from their boxes.

    Args:
        size: of a sample, without channels.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size

    @torch.no_grad()
    def __call__(self, boxes: Sequence[BoxTensors]) -> dict[str, torch.Tensor]:
        """``{"image": (B, n, *size) float32 0 ... 1, "label": (B, 1, *size) uint8}`` on the device of the boxes."""
        first = boxes[0].image
        image = torch.empty((len(boxes), first.shape[0], *self.size), dtype=torch.float32, device=first.device)
        label = torch.empty((len(boxes), 1, *self.size), dtype=torch.uint8, device=first.device)

        # One by one: some matrix products round differently in a batch, and then a sample would depend on the others.
        def make(start: int, stop: int) -> None:
            for number in range(start, stop):
                _place_sample(boxes[number], image[number], label[number])
                change_grey_values(image[number], boxes[number].changes)

        if first.device.type == "cpu" and torch.get_num_threads() > 1:
            in_ranges_single_threaded(make, len(boxes), 1)
        else:
            make(0, len(boxes))
        return {"image": image, "label": label}


def _place_sample(box: BoxTensors, image: torch.Tensor, label: torch.Tensor) -> None:
    """Fill ``image`` (n, *size) and ``label`` (1, *size) from a box: copied, mirrored or resampled."""
    if box.changes.warp is not None:
        resample(box, box.changes.warp, image, label)
    elif box.changes.mirror:
        # Axis 0 holds the channels.
        image.copy_(box.image.flip(LEFT_RIGHT + 1))
        label.copy_(box.label.flip(LEFT_RIGHT + 1))
    else:
        image.copy_(box.image)
        label.copy_(box.label)
    if box.image.dtype == torch.uint8:  # a picture, 0 ... 255
        image *= 1 / 255


def resample(box: BoxTensors, warp: Warp, image: torch.Tensor, label: torch.Tensor) -> None:
    """Warp a box into ``image`` (linear) and ``label`` (nearest) with one set of coordinates; outside it is 0."""
    # Backwards: each voxel of the patch asks where in the box it comes from, so that none stays empty.
    places = _places(warp, label.shape[1:], label.device)
    if label.device.type == "cpu" and label.dim() == 1 + _VOLUME:  # PyTorch is quick with slices and on a GPU
        _resample_in_slabs(box, warp, places, image, label)
        return
    grid = _coordinates(box, warp, places, label.shape[1:])
    for source, target, mode in ((box.image, image, "bilinear"), (box.label, label, "nearest")):
        values = grid_sample(source[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
        target.copy_(values[0])


def _resample_in_slabs(
    box: BoxTensors, warp: Warp, places: Sequence[torch.Tensor], image: torch.Tensor, label: torch.Tensor
) -> None:
    padded = PaddedBox(box.image, box.label)
    deep, *plane = label.shape[1:]
    step = max(1, _SLAB // math.prod(plane))
    for first in range(0, deep, step):
        rows = slice(first, first + step)
        # Of what runs along the first axis only the slab's part; the lines of the other axes are as they are.
        here = [place[rows] if place.shape[0] == deep else place for place in places]
        origin = [
            _from(here, weights, middle + PaddedBox.FIRST)
            for weights, middle in zip(warp.matrix, box.middle, strict=True)
        ]
        padded.look_up(origin, image[:, rows], label[:, rows])


def _from(places: Sequence[torch.Tensor], weights: Iterable[float], offset: float) -> torch.Tensor:
    """``offset`` and the weighted sum over the axes: where in the box, along one of its axes, voxels come from."""
    # One line, one plane and one volume at a time: only the last one is as large as a patch.
    total: torch.Tensor | float = offset
    for place, weight in zip(places, weights, strict=True):
        total = place * float(weight) + total
    return torch.as_tensor(total)


def _coordinates(box: BoxTensors, warp: Warp, places: Sequence[torch.Tensor], size: torch.Size) -> torch.Tensor:
    """(1, *size, d): where each voxel of the patch lies in the box, as ``grid_sample`` counts.

    It counts from the outer edge of the first voxel, -1, to that of the last one, 1, and names the last axis first:
    voxel x of N lies at (2 x + 1) / N - 1.
    """
    dims = len(size)
    grid = torch.empty((1, *size, dims), dtype=torch.float32, device=box.image.device)
    for axis, length in enumerate(box.image.shape[1:]):
        weights = 2 * warp.matrix[axis] / length
        grid[0, ..., dims - 1 - axis] = _from(places, weights, (2 * box.middle[axis] + 1) / length - 1)
    return grid


def _places(warp: Warp, size: torch.Size, device: torch.device) -> list[torch.Tensor]:
    """Along each axis, how far the voxels are from the middle of the patch, and moved by the elastic shifts."""
    dims = len(size)
    places = []
    for axis, length in enumerate(size):
        # 5 voxels lie at -2, -1, 0, 1, 2, along their own axis of the patch: (5, 1, 1), (1, 5, 1), (1, 1, 5).
        line = torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2
        places.append(line.reshape([-1 if other == axis else 1 for other in range(dims)]))
    if warp.shifts is None:
        return places
    lattice = torch.from_numpy(warp.shifts)
    lattice = lattice.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else lattice
    shifts = interpolate(lattice[None], tuple(size), mode=_LINEAR[dims], align_corners=True)[0]
    return [place + shift for place, shift in zip(places, shifts, strict=True)]


def change_grey_values(image: torch.Tensor, changes: Changes) -> None:
    """Contrast, then the scanner (blur, slices, noise), in place on ``image`` (n, *size) float32."""
    if changes.gamma is not None:
        # A power of the grey values between the darkest and the brightest, as MONAI's ``AdjustContrast``.
        low, high = torch.aminmax(image)  # stay on the device
        span = high - low
        # x^gamma = exp(gamma log x): a fifth of the time of pow. At 0 that is exp of minus infinity, 0 again.
        image.sub_(low).div_(span + 1e-7).log_().mul_(changes.gamma).exp_().mul_(span).add_(low)
    if changes.gain is not None:
        # mean + gain * (image - mean): contrast about the mean, which stays on the device.
        image.lerp_(image.mean().expand_as(image), 1 - changes.gain)
    if changes.blur_voxels or changes.thickness_voxels:
        _scan_coarsely(image, changes)
    if changes.noise_std > 0:
        # The same on every machine with the same kind of device; a CPU and a GPU draw other noise from one seed.
        source = torch.Generator(image.device).manual_seed(changes.noise_seed)
        image.add_(
            torch.randn(image.shape, generator=source, device=image.device, dtype=image.dtype), alpha=changes.noise_std
        )


def _scan_coarsely(image: torch.Tensor, changes: Changes) -> None:
    dims = image.dim() - 1
    blur, thickness = changes.blur_voxels or (0.0,) * dims, changes.thickness_voxels or (1.0,) * dims
    # One axis after the other: blur and slices of a scanner are separable.
    result = image
    for axis, length in enumerate(image.shape[1:]):
        matrix = axis_filter(
            length,
            image.device,
            blur_voxels=blur[axis],
            thickness_voxels=thickness[axis],
            phase=changes.phase,
        )
        if matrix is not None:
            result = filter_axis(result, matrix, axis)
    image.copy_(result)
