"""Weights of a network as a file holds them: are they numbers, and do they fit?"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from verse3d.core.errors import CheckpointError

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NAMES_SHOWN = 5


def require_sound_weights(weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Check that all weights are finite floating point numbers; only a normalisation's counter is a whole number.

    Raises:
        ValueError: the first that is not, with how many of its values.
    """
    for name, weight in weights.items():
        if weight.dtype not in _FLOATS:
            if weight.dtype is torch.int64 and weight.dim() == 0:  # batches counted by a batch normalisation
                continue
            raise ValueError(f"the weights {where}.{name} are {weight.dtype}; expected floating point numbers")
        # A network with one NaN returns NaN everywhere, and a mask made of that looks like an empty one. If any is NaN,
        # so are the smallest and the largest: to find these takes a fifth of the time of a look at each.
        if weight.numel() and not all(math.isfinite(end) for end in weight.detach().aminmax()):
            bad = int((~torch.isfinite(weight.detach())).sum())
            raise ValueError(f"{bad} of the {weight.numel()} weights in {where}.{name} are NaN or infinite")


def in_float32(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that a file keeps in half precision, to save space, as a network computes with them."""
    return {name: weight.float() if weight.dtype is torch.float16 else weight for name, weight in weights.items()}


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put weights into a network.

    Raises:
        CheckpointError: names, shapes or kinds do not fit.
    """
    try:
        # Looked at before anything is loaded: a network that took half of the weights would still compute.
        _require_fitting(network.state_dict(), weights)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit the network of its config: {error}",
            hint="use a model file as verse3d wrote it; weights and config of different runs do not go together",
        ) from error


def _require_fitting(expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Compare names and kinds; ``load_state_dict`` forgives a missing counter, and turns integers into floats."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"expected weights by name, got {type(weights).__name__}")
    for what, names in (("missing", expected.keys() - weights.keys()), ("surplus", weights.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(map(str, names))[:_NAMES_SHOWN])
            raise ValueError(f"{len(names)} weights are {what}, e.g. {shown}")
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor):
            raise TypeError(f"{name} is {type(weight).__name__}, no tensor")
        if weight.is_floating_point() != expected[name].is_floating_point():
            raise ValueError(f"{name} is {weight.dtype}, the network has {expected[name].dtype}")
