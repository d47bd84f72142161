"""Train a scout alone on phantoms, put it into a model file, and say what it saves and what it misses.

    python benchmarks/scout.py --steps 400 --out runs/scout.pt                       # train: minutes on two cores
    python benchmarks/scout.py --out runs/scout.pt --steps 0 --scans ../shared/data  # look at more with what is there
    python benchmarks/scout.py --steps 0 --out runs/scout.pt --into best.pt          # judge it, and give it to a model
    python benchmarks/scout.py --minutes 8 --persons 200 --workers 14 --device cuda --cases INDEX --out runs/scout.pt

Phantoms show a whole body at 4 mm. With --cases INDEX half of each step's samples come from real training cases. Judged
are phantoms that were not trained on and, with --scans, every pair of scan and mask below a folder. For each: the
share of the labelled voxels near which nothing would be looked at, and the share of the voxels of the 1.5 mm grid that
no window of 96 voxels (overlap a quarter) has to cover. Without a mask the second only. Last line: JSON.

The learning rate falls to 0 with the steps, or with --minutes. All --persons are drawn before the first step, by
--workers processes, and kept in --drawn for other trainings if it is given.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.config import Config, GridConfig, parse_config
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear, resample_vote
from verse3d.core.volume import read_image
from verse3d.data.cases import Case
from verse3d.data.index.discover import load_cases
from verse3d.data.pairs import read_mask
from verse3d.data.samples.grid import network_geometry, prepare_image_float16, windowing
from verse3d.inference.body_mask import BodyMask
from verse3d.inference.scout import at_scout_spacing, look_for_spine
from verse3d.inference.spine_crop import SpineRegion, covered_share, moved
from verse3d.model.checkpoint import Checkpoint, TrainedNetwork, load_checkpoint, load_weights, save_checkpoint
from verse3d.model.scout import SCOUT, SCOUT_MM, USABLE, ScoutNetwork
from verse3d.model.tilings import WindowTiling
from verse3d.phantoms.body import make_body
from verse3d.training.scout import ScoutTraining
from verse3d.training.scout_samples import PHANTOMS, ScoutSamples, Volumes, phantom_volumes, with_ignored_ends

SEED, JUDGED_SEED = 0, 900
DRAWN_MM = 3.0
SETTINGS = {
    "grid": {"spacing_mm": 1.5, "window_hu": [-250, 1250]},
    "sampling": {"patch_voxels": 96},
    "inference": {"overlap": 0.25},
}


@dataclass(frozen=True)
class Judgement:
    """What a scout means for one scan.

    Attributes:
        name: of the scan.
        missed: share of the labelled voxels that lie where nothing is looked at; NaN without a mask.
        skipped: share of the voxels that no window covers, with the scout ...
        skipped_without: ... and as air alone.
        seconds: that the scout took.
    """

    name: str
    missed: float
    skipped: float
    skipped_without: float
    seconds: float


def main() -> None:
    """Train, judge, print."""
    options = _options()
    torch.set_num_threads(options.threads)
    config = parse_config(SETTINGS)
    network = _trained(config, options) if options.steps or options.minutes else _read(options.out)
    network.eval()
    found = []
    print(f"{'scan':40} {'missed':>8} {'skipped':>8} {'as air':>8} {'seconds':>8}")
    for scan in chain(_phantoms(config, options.phantoms), _scans(config, options.scans)):
        found.append(one := _judged(scan, network, config))
        figures = f"{one.missed:8.4f} {one.skipped:8.3f} {one.skipped_without:8.3f} {one.seconds:8.2f}"
        print(f"{one.name[:40]:40} {figures}", flush=True)
    judged = [one for one in found if not np.isnan(one.missed)]
    if options.into:
        _give(network, options.into, judged)
    print(
        json.dumps({
            "scans": len(found),
            "with_missed_voxels": sum(one.missed > 0 for one in judged),
            "mean_skipped": round(float(np.mean([one.skipped for one in found])), 4),
            "mean_skipped_as_air": round(float(np.mean([one.skipped_without for one in found])), 4),
        })
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="0 reads --out instead")
    parser.add_argument("--minutes", type=float, help="of training, whatever --steps says")
    parser.add_argument("--device", default="cpu", help="to train on; judged is on the CPU")
    parser.add_argument("--persons", type=int, default=PHANTOMS, help="phantoms to learn from")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw them")
    parser.add_argument("--drawn", type=Path, help="folder that keeps drawn phantoms")
    parser.add_argument("--out", type=Path, required=True, help="file for its weights")
    parser.add_argument("--cases", type=Path, help="index or folder of real cases to learn from, too")
    parser.add_argument("--leave-out", default="", help="subject that is not learnt from")
    parser.add_argument("--scans", type=Path, nargs="*", default=[], help="folders and files to judge on")
    parser.add_argument("--phantoms", type=int, default=4, help="to judge on, of persons that were not trained on")
    parser.add_argument("--into", type=Path, help="model file that gets the scout, marked usable if it missed nothing")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _trained(config: Config, options: argparse.Namespace) -> ScoutNetwork:
    cases = load_cases(options.cases) if options.cases else ()
    volumes = [coarse_volumes(case, config) for case in cases if case.mask and case.subject != options.leave_out]
    persons = _persons(config, options)
    samples = ScoutSamples(SEED, config.grid, len(volumes), volumes.__getitem__, len(persons), persons.__getitem__)
    training = ScoutTraining(config, samples, [], torch.device(options.device))
    started, losses, done = time.monotonic(), [], 0.0
    while done < 1.0:
        losses.append(training.step(1.0 - done))
        seconds = time.monotonic() - started
        done = seconds / 60 / options.minutes if options.minutes else training.steps / options.steps
        if training.steps % 25 == 0:
            recent = float(np.mean(losses[-25:]))
            print(f"step {training.steps}: loss {recent:.3f}, {seconds / training.steps:.2f} s per step", flush=True)
            torch.save(_weights(training.network), options.out)
    torch.save(_weights(training.network), options.out)
    return training.network.cpu()


def _weights(network: ScoutNetwork) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in network.state_dict().items()}


def _persons(config: Config, options: argparse.Namespace) -> list[Volumes]:
    """All phantoms to learn from, drawn by several processes."""
    drawing = partial(_person, grid=config.grid, folder=options.drawn)
    if options.workers == 1:
        return [drawing(number) for number in range(options.persons)]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        return list(pool.map(drawing, range(options.persons)))


def _person(number: int, grid: GridConfig, folder: Path | None) -> Volumes:
    """A phantom at 4 mm as the store would hold it, from ``folder`` if it was drawn before."""
    torch.set_num_threads(1)
    kept = folder / f"person-{number}.npz" if folder else None
    if kept is None or not kept.exists():
        volumes = phantom_volumes(SEED, number, grid)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, image=volumes[0], ids=volumes[1])
        return volumes
    with np.load(kept) as content:
        return content["image"], content["ids"]


def coarse_volumes(case: Case, config: Config) -> Volumes:
    """A real case at 4 mm, as the store would hold it."""
    grid = config.grid.model_copy(update={"spacing_mm": (4.0,) * 3})
    scan, mask = read_image(case.image_path()), read_mask(case)
    image, geometry = prepare_image_float16(scan, grid)
    return image, with_ignored_ends(resample_vote(mask.array.astype(np.uint8), mask.geometry, geometry, undecided=255))


def _read(path: Path) -> ScoutNetwork:
    network = ScoutNetwork(parse_config(SETTINGS).scout.channels)
    load_weights(network, torch.load(path, weights_only=True), path)
    return network


@dataclass(frozen=True, eq=False)
class Scan:
    """What is judged on.

    Attributes:
        name: of the scan.
        image: (I, J, K) 0 ... 1 on the network grid ``geometry``.
        mask: of the scan's own grid ``source``, or None.
    """

    name: str
    image: NDArray[np.floating]
    geometry: Geometry
    mask: NDArray[np.integer] | None
    source: Geometry


def _phantoms(config: Config, count: int) -> Iterator[Scan]:
    for number in range(count):
        body = make_body(JUDGED_SEED, number, DRAWN_MM)
        geometry = network_geometry(body.geometry, config.grid)
        hu = resample_linear(body.image_hu, body.geometry, geometry)
        image = windowing(config.grid)(hu).astype(np.float16)
        yield Scan(f"phantom {number}, {body.anomaly}", image, geometry, body.mask, body.geometry)


def _scans(config: Config, folders: list[Path]) -> Iterator[Scan]:
    for folder in folders:
        for case in load_cases(folder):
            if case.image is not None:
                scan = read_image(case.image_path())
                image, geometry = prepare_image_float16(scan, config.grid)
                mask = read_mask(case).array if case.mask else None
                yield Scan(case.case, image, geometry, mask, scan.geometry)


def _judged(scan: Scan, network: ScoutNetwork, config: Config) -> Judgement:
    coarse, _ = at_scout_spacing(scan.image, scan.geometry)
    started = time.perf_counter()
    region = SpineRegion.of(look_for_spine(network, coarse), scan.geometry.spacing_mm)
    seconds = time.perf_counter() - started
    without = _skipped(None, scan, config)
    skipped = without if region is None else _skipped(region, scan, config)
    return Judgement(scan.name, _missed(region, scan), skipped, without, seconds)


def _missed(region: SpineRegion | None, scan: Scan) -> float:
    if scan.mask is None:
        return float("nan")
    if region is None:  # everything is looked at
        return 0.0
    world = scan.source.world_from_index(np.argwhere(scan.mask > 0))
    coarse = scan.geometry.resampled((SCOUT_MM,) * 3)
    at = np.clip(np.rint(coarse.index_from_world(world)).astype(int), 0, np.array(coarse.shape) - 1)
    return float(1 - region.near[tuple(at.T)].mean())


def _skipped(region: SpineRegion | None, scan: Scan, config: Config) -> float:
    """The share of voxels that no window covers, as ``Predictor`` chooses them."""
    shape = scan.geometry.shape
    box = tuple(slice(0, size) for size in shape)
    if region is not None:
        box = region.crop(shape, config.sampling.patch_voxels, (0, 0, 0))
    part = scan.image[box]
    body, regions = (
        BodyMask.of(part, config.grid),
        WindowTiling.of(config.sampling, config.inference, part.shape).regions,
    )
    wanted = [one for one in regions if body.touches(one) and (region is None or region.touches(moved(one, box)))]
    return 1 - covered_share(wanted, box, shape)


def _give(network: ScoutNetwork, model: Path, judged: list[Judgement]) -> None:
    """Put it into a model file, marked as a training marks it: usable if it missed nothing of what it was shown."""
    checkpoint: Checkpoint = load_checkpoint(model)
    missing = sum(one.missed > 0 for one in judged)
    usable = bool(judged) and not missing
    scores = {USABLE: float(usable), "missed_scans": float(missing), "validation_cases": float(len(judged))}
    # The model's config, but with what the scout tells apart: levels.
    labels = checkpoint.config.labels.model_copy(update={"scheme": "vertebrae"})
    part = TrainedNetwork(checkpoint.config.model_copy(update={"labels": labels}), network.state_dict(), 0, scores)
    save_checkpoint(model, replace(checkpoint, networks={**checkpoint.networks, SCOUT: part}))
    print(f"{model}: its scout is {'usable' if usable else f'not usable, it missed a part of {missing} scans'}")


if __name__ == "__main__":
    main()
