"""Let a scout go on with phantoms that are drawn at 3 mm and resampled as scans are: the last step of the starter's.

    python scripts/refine_scout.py scout.pt --cases INDEX --minutes 9

Phantoms drawn at 4 mm are sharper than scans that were carried there. Every second sample of a phantom shows the upper
36 cm only, because C1 is missed most. The rate falls to nearly nothing with the minutes; the file is replaced.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from verse3d.core.config import GridConfig, parse_config
from verse3d.core.resample import resample_linear, resample_vote
from verse3d.data.index.discover import load_cases
from verse3d.data.samples.grid import network_geometry, windowing
from verse3d.inference.scout import at_scout_spacing
from verse3d.model.checkpoint import TrainedNetwork
from verse3d.phantoms.body import make_body
from verse3d.training.scout import ScoutTraining
from verse3d.training.scout_samples import ScoutSamples, Volumes

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.scout import SETTINGS, coarse_volumes

PERSONS, BODY_SEED, BODY_MM, SAMPLE_SEED = 14, 31, 3.0, 77
UPPER_PLANES = 90
START_RATE, END_RATE = 1.55, 0.05
"""Shares of the rate that a scout has which begins with another."""


def main() -> None:
    """Draw, learn, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scout", type=Path, help="weights of benchmarks/scout.py")
    parser.add_argument("--cases", type=Path, required=True, help="index of real cases to learn from, too")
    parser.add_argument("--leave-out", default="", help="subject that is not learnt from")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--persons", type=int, default=PERSONS)
    options = parser.parse_args()
    config = parse_config(SETTINGS)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        persons = list(pool.map(carried_person, range(options.persons)))
    persons += [(image[:, :, -UPPER_PLANES:], ids[:, :, -UPPER_PLANES:]) for image, ids in persons]
    cases = [one for one in load_cases(options.cases) if one.mask and one.subject != options.leave_out]
    real = [coarse_volumes(case, config) for case in cases]
    samples = ScoutSamples(SAMPLE_SEED, config.grid, len(real), real.__getitem__, len(persons), persons.__getitem__)
    training = ScoutTraining(config, samples, [], torch.device("cpu"))
    weights = torch.load(options.scout, weights_only=True)
    training.begin_with(TrainedNetwork(config, weights), options.scout)
    started, done = time.monotonic(), 0.0
    while done < 1.0:
        loss = training.step(START_RATE + (END_RATE - START_RATE) * done)
        done = (time.monotonic() - started) / 60 / options.minutes
        if training.steps % 20 == 0:
            print(f"step {training.steps}: loss {loss:.3f}", flush=True)
    torch.save({name: weight.clone() for name, weight in training.network.state_dict().items()}, options.scout)


def carried_person(number: int) -> Volumes:
    """A whole body at 4 mm, as a scan of it would come there."""
    torch.set_num_threads(1)
    grid: GridConfig = parse_config(SETTINGS).grid
    body = make_body(BODY_SEED, number, BODY_MM)
    geometry = network_geometry(body.geometry, grid)
    image = windowing(grid)(resample_linear(body.image_hu, body.geometry, geometry)).astype(np.float16)
    coarse, coarse_geometry = at_scout_spacing(image, geometry)
    ids = resample_vote(body.mask, body.geometry, coarse_geometry, undecided=255)
    return np.asarray(coarse, np.float16), ids


if __name__ == "__main__":
    main()
