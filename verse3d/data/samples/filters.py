"""Blur, low resolution and thick slices as one matrix per axis: what a scanner does along its axes is separable.

    out[i] = sum over j of M[i, j] in[j]        (length, length), rows add up to 1

A matrix product is what every device is best at, and it cannot shift an image against its label by half a voxel as
resizing down and up again does.
"""

import math

import torch

_TRUNCATED = 4.0
"""Standard deviations after which a Gaussian is taken to be 0, as in MONAI's ``GaussianSmooth``."""

_SLIVER = 1e-3
"""Slices of which the patch holds less (voxels) are left out."""


def axis_filter(
    length: int, device: torch.device, *, blur_voxels: float = 0.0, thickness_voxels: float = 1.0, phase: float = 0.0
) -> torch.Tensor | None:
    """(length, length) float32: a Gaussian, then slices of some thickness and a line between their centres.

    Args:
        length: voxels along the axis.
        device: where the matrix is wanted.
        blur_voxels: standard deviation; 0 for none.
        thickness_voxels: of the slices; 1 or less for none.
        phase: where the first slice begins, as a share of the thickness.

    Returns:
        The matrix, or None if nothing is to be done.
    """
    matrix = _gaussian(length, blur_voxels, device) if blur_voxels > 0 else None
    if thickness_voxels > 1:
        thick = _thick_slices(length, thickness_voxels, phase, device)
        matrix = thick if matrix is None else thick @ matrix
    return matrix


def filter_axis(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """``image`` (n, ...) filtered along its spatial axis number ``axis``, in a new tensor."""
    along = axis + 1
    if along == image.dim() - 1:
        return image @ matrix.T
    #  (n, A, L, B, C)  ->  (n A, L, B C): whatever lies after the axis is a column of its own
    before, lines = math.prod(image.shape[:along]), image.shape[along]
    columns = image.reshape(before, lines, -1)
    return torch.matmul(matrix, columns).reshape(image.shape)


def _gaussian(length: int, sigma: float, device: torch.device) -> torch.Tensor:
    """The share of each voxel's Gaussian that falls into each other voxel; what would fall outside is given back."""
    place = torch.arange(length, dtype=torch.float32, device=device)
    distance = place[:, None] - place[None]
    scale = 1 / (sigma * math.sqrt(2))
    # The Gaussian's integral over each voxel (times two): sampled at the centres, narrow ones would lose their sum.
    weights = torch.erf((distance + 0.5) * scale) - torch.erf((distance - 0.5) * scale)
    weights = weights.masked_fill(distance.abs() > int(max(sigma * _TRUNCATED, 0.5) + 0.5), 0.0)
    # At the ends of the image the rest of the Gaussian has to make up for what lies outside.
    return weights / weights.sum(dim=1, keepdim=True)


def _thick_slices(length: int, thickness: float, phase: float, device: torch.device) -> torch.Tensor:
    """Mean over every slice, then a line from the middle of one slice to that of the next.

    voxels   |0|1|2|3|4|5|6|7|
    slices  k=0|  k=1  |  k=2  |         the first may begin before voxel 0

    The middle of a slice is that of the voxels it holds, so that grey values that rise evenly stay as they are.
    """
    first = 0 if (1 - phase) * thickness > _SLIVER else 1
    last = max(first + 1, math.ceil(length / thickness + phase - _SLIVER))
    voxel = torch.arange(length, dtype=torch.float32, device=device)
    lower = (torch.arange(first, last, dtype=torch.float32, device=device)[:, None] - phase) * thickness - 0.5
    held = torch.minimum(voxel + 0.5, lower + thickness) - torch.maximum(voxel - 0.5, lower)
    held = held.clamp_min(0.0)  # (slices, voxels): how much of a voxel lies in a slice
    mean = held / held.sum(dim=1, keepdim=True)
    return _lines(voxel, mean @ voxel) @ mean


def _lines(places: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """(places, knots): weights of linear interpolation between rising knots; beyond the ends the last one counts."""
    if len(knots) == 1:
        return torch.ones((len(places), 1), device=places.device)
    share = (places[:, None] - knots[:-1]) / (knots[1:] - knots[:-1])  # of the way from each knot to the next
    #            knot 0     knot 1     knot 2
    # share[0]   0 ------/--- 1 ------- 1          arrived = (1, share[0], share[1])
    # share[1]   0 ---------- 0 ---/--- 1          left    = (share[0], share[1], 0)
    #
    # arrived - left is each knot's weight: what has come to it and not gone on.
    share = share.clamp(0.0, 1.0)
    arrived = torch.nn.functional.pad(share, (1, 0), value=1.0)
    left = torch.nn.functional.pad(share, (0, 1), value=0.0)
    return arrived - left
