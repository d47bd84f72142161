"""What tests of prediction share: a network that knows grey values only, and calls as the api makes them."""

import gzip
import json
from functools import partial
from pathlib import Path

import torch

from tests.scans import ThresholdNet, tiny_config
from verse3d.core.logs import no_progress
from verse3d.core.runtime import choose_precision
from verse3d.inference.loading import described, models_sha256
from verse3d.inference.predict import PredictOptions, predict_cases
from verse3d.inference.predictor import Predictor
from verse3d.model.modes import Method

CPU = torch.device("cpu")
WINDOW = {"window_hu": [0, 1000]}
FINE = tiny_config(grid={"spacing_mm": [2.0, 2.5, 2.2], **WINDOW})
LEVELS = tiny_config(grid={"spacing_mm": [2.0, 2.0, 2.0], **WINDOW}, labels={"scheme": "vertebrae"})


def predictor(config=FINE, cut=0.5) -> Predictor:
    channels = 27 if config.labels.scheme == "vertebrae" else 1
    return Predictor.of_network(ThresholdNet(channels, cut).eval(), Method(config), CPU, choose_precision("off", CPU))


def predicted(cases, by, out, *, model=Path("best.pt"), progress=no_progress, ahead=None, **options):
    """``predict_cases`` as the api calls it."""
    sha256 = models_sha256([model]) if model.is_file() else ""
    chosen = PredictOptions(**options)
    about = partial(described, by, [model])
    return predict_cases(
        cases, by, out, about=about, model_sha256=sha256, options=chosen, progress=progress, ahead=ahead
    )


def run(cases, out, **options):
    return predicted(cases, predictor(cut=0.35), out, **options)


def manifest(out):
    return json.loads((out / "predictions.json").read_text())


def models(folder, *names):
    """Files that stand for models of these names."""
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


def masks_in(out) -> dict[str, bytes]:
    return {path.name: gzip.decompress(path.read_bytes()) for path in sorted(out.glob("*_msk.nii.gz"))}
