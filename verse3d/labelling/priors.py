"""What is known of spines before one is seen: distances, how levels look, and what anomalies cost.

A file ``priors.npz`` beside this module holds the numbers that ship with verse3d, ``PROVENANCE`` says where they come
from. ``fitting.fit_priors`` makes others.
"""

import zipfile
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.files import whole_file
from verse3d.labelling.levels import ANOMALIES, LEVEL_INDEX, LEVELS, MOST_MISSED, STEPS, edges

SHIPPED = Path(__file__).with_name("priors.npz")
PROVENANCE = (
    "Fitted on the training part of the ImFusion VID data set (Bürgin, Prevost, Stollenga, MICCAI 2023, "
    "arXiv 2308.02509), CC BY-SA 4.0; key points only, no image data."
)
MEMBERS_MOST = 32
_LARGEST_BYTES = 8 << 20

# A distance between neighbours is compared as log(d / expected), with tails heavier than normal, because vertebrae
# collapse and detections slip by a voxel or two.
_TAIL = 5.0
SCALES = np.linspace(-0.3, 0.3, 13)
"""Log sizes of a patient that are tried, about 0.74 to 1.35 times the average."""
_SCALE_SD = 0.1


@dataclass(frozen=True)
class Priors:
    """The numbers behind every reading. All arrays are float64; M members, F features, H hidden units, 27 levels.

    Attributes:
        log_step_mm: mean log distance of neighbours, one per entry of ``levels.STEPS``.
        step_sd: spread of log distances of one patient.
        step_weight: how much distances count beside looks.
        missed: score of 0, 1, 2 ... vertebrae without a detection between two that have one.
        anomalies: score of each of ``levels.ANOMALIES``.
        skipped: score of a detection that is no vertebra, beside what ``real`` says about it.
        mean, spread: of each feature.
        linear, bias: (M, F, 27) and (M, 27), a linear look at the features.
        hidden, hidden_bias, output: (M, F, H), (M, H), (M, H, 27), a second look through one hidden layer.
        real, real_bias: (F,) and (1,), logistic regression of "is a vertebra".
        certain: the posterior from which on a reading is given without doubt, (1,).
    """

    log_step_mm: NDArray[np.float64]
    step_sd: NDArray[np.float64]
    step_weight: NDArray[np.float64]
    missed: NDArray[np.float64]
    anomalies: NDArray[np.float64]
    skipped: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    linear: NDArray[np.float64]
    bias: NDArray[np.float64]
    hidden: NDArray[np.float64]
    hidden_bias: NDArray[np.float64]
    output: NDArray[np.float64]
    real: NDArray[np.float64]
    real_bias: NDArray[np.float64]
    certain: NDArray[np.float64]

    def looks(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score of each level by the looks of a detection and its neighbours, (N, 27), from (N, F).

        The likeliest level has 0: a detection between two names that look alike is no worse a vertebra for it.
        """
        scaled = standardised(features, self.mean, self.spread)
        # m networks with a hidden layer each, (N, F) -> (m, N, h) -> (m, N, 27), beside a linear part; then the mean
        hidden = np.maximum(np.einsum("nf,mfh->mnh", scaled, self.hidden) + self.hidden_bias[:, None], 0.0)
        scores = np.einsum("nf,mfl->mnl", scaled, self.linear) + self.bias[:, None] + hidden @ self.output
        tied = as_t12(scores.mean(axis=0))
        looks: NDArray[np.float64] = tied - tied.max(axis=1, keepdims=True)
        return looks

    def realness(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds that a detection is a vertebra at all, (N,)."""
        odds: NDArray[np.float64] = standardised(features, self.mean, self.spread) @ self.real + self.real_bias
        return odds

    def ways_mm(self) -> NDArray[np.float64]:
        """The expected log distance of each edge of the graph, (E,): the sum of its steps."""
        steps = dict(zip(STEPS, np.exp(self.log_step_mm), strict=True))
        # Millimetres add up along a way, logs do not: sums first, logs last.
        sums = [sum(steps[LEVELS[a], LEVELS[b]] for a, b in pairwise(way)) for way in edges().ways]
        expected: NDArray[np.float64] = np.log(np.array(sums))
        return expected

    def distance_scores(self, log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of log(distance / expected), any shape; 0 for a distance just as expected."""
        # Student's t, whose tails forgive a single centre that slipped; a Gaussian's would not.
        surprise: NDArray[np.float64] = np.log1p((log_ratio / self.step_sd[0]) ** 2 / _TAIL)
        return -0.5 * (_TAIL + 1.0) * float(self.step_weight[0]) * surprise


def scale_scores(scales: NDArray[np.float64] = SCALES) -> NDArray[np.float64]:
    """Log prior of the patient's log size on a grid; exp of it adds up to 1."""
    return log_softmax(-0.5 * (scales / _SCALE_SD) ** 2)


def standardised(
    features: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Features in units of their spread, cut off at four, so that nothing outlandish decides alone."""
    clipped: NDArray[np.float64] = np.clip((features - mean) / spread, -4.0, 4.0)
    return clipped


def as_t12(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores (..., 27) where T13 looks as T12 does: no training spine has one, so nothing else is known of it."""
    tied = scores.copy()
    tied[..., LEVEL_INDEX["T13"]] = scores[..., LEVEL_INDEX["T12"]]
    return tied


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log probabilities along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@cache
def shipped_priors() -> Priors:
    """The numbers that come with verse3d (see ``PROVENANCE``)."""
    return load_priors(SHIPPED)


def save_priors(priors: Priors, path: Path) -> None:
    """Write the numbers as a compressed NPZ file in single precision.

    Raises:
        OutputError: it cannot be written.
    """
    # Fine enough for numbers that come out of a fit, and half the file.
    arrays = {field.name: getattr(priors, field.name).astype(np.float32) for field in fields(Priors)}
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, provenance=np.array(PROVENANCE), **arrays)


def load_priors(path: Path) -> Priors:
    """Read the numbers back.

    Raises:
        DataError: the file is missing, damaged, or its arrays do not fit together.
    """
    hint = "make it anew with benchmarks/naming.py"
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"{path} is larger than any file of priors", hint=hint)
        # A file of arrays never needs pickle, and pickle could run anything.
        with np.load(path, allow_pickle=False) as stored:
            arrays = {field.name: np.asarray(stored[field.name], dtype=np.float64) for field in fields(Priors)}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read priors from {path}: {error}", hint=hint) from error
    _check(arrays, path, hint)
    return Priors(**arrays)


def _check(arrays: dict[str, NDArray[np.float64]], path: Path, hint: str) -> None:
    members, features, units = arrays["hidden"].shape if arrays["hidden"].ndim == 3 else (0, 0, 0)
    levels = len(LEVELS)
    expected = {
        "log_step_mm": (len(STEPS),),
        "step_sd": (1,),
        "step_weight": (1,),
        "missed": (MOST_MISSED + 1,),
        "anomalies": (len(ANOMALIES),),
        "skipped": (1,),
        "mean": (features,),
        "spread": (features,),
        "linear": (members, features, levels),
        "bias": (members, levels),
        "hidden": (members, features, units),
        "hidden_bias": (members, units),
        "output": (members, units, levels),
        "real": (features,),
        "real_bias": (1,),
        "certain": (1,),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise DataError(f"{path}: {name} is no array of {shape} finite numbers", hint=hint)
    if not 1 <= members <= MEMBERS_MOST or not features or (arrays["spread"] <= 0).any() or arrays["step_sd"][0] <= 0:
        raise DataError(f"{path}: the numbers make no sense together", hint=hint)
