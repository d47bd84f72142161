"""What named vertebrae cost: whole predictions beside the head of 27 classes, and grouping and naming alone.

    python benchmarks/naming_cost.py --named runs/names --direct runs/direct
    python benchmarks/naming_cost.py                       # models that are trained here for a few steps, and no good
    python benchmarks/naming_cost.py --alone               # grouping and naming only
    python benchmarks/naming_cost.py --sizes 64x64x48 --runs 1 --steps 4    # a quick look

Whole: `verse3d predict` of one scan (scans.py), every run a program of its own, in turn: the model that finds bones and
names them by their sequence, with its scout, and the one with a channel for each level, as it was before there were
scouts. Seconds go from the end of the imports to the written mask, memory is the peak of the process, figures are
medians. Alone: a phantom's true bones on as many voxels, the whole spine as large as the scan lets it be; seconds, and
memory beyond the map of parts. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Outcome, alone_in, alternate, machine, median, ratio, record_of
from models import TRAINING, phantom_index
from numpy.typing import NDArray
from pipelines import run_ours
from scans import make_scan

from verse3d.core.config import load_config
from verse3d.core.geometry import Geometry
from verse3d.core.labels import BONES
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.runtime import rss_mb
from verse3d.inference.naming import SequenceNaming
from verse3d.model.checkpoint import TrainedNetwork, load_checkpoint, save_checkpoint
from verse3d.model.locate import model_file
from verse3d.model.parts import parts_of
from verse3d.model.scout import SCOUT, USABLE
from verse3d.phantoms.body import make_body

DRAWN_MM = 3.0
NAMED, DIRECT = "named", "27 classes"
CONFIGS = {NAMED: "vertebrae", DIRECT: "vertebrae-direct"}


def main() -> None:
    """Measure and print."""
    options = _options()
    results: dict[str, dict[str, Any]] = {}
    with alone_in(options.work):
        models = {} if options.alone else {NAMED: _named(options), DIRECT: _direct(options)}
        print(machine(), flush=True)
        for size in options.sizes:
            results[size] = {"alone": _alone(size)}
            print(size, results[size], flush=True)
            if models:
                results[size] |= _whole(size, models, options)
    print(json.dumps(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["512x512x500", "512x512x1500"])
    parser.add_argument("--named", type=Path, help="model named by sequence; trained here for a few steps if left out")
    parser.add_argument("--direct", type=Path, help="model with a channel for each level; the same")
    parser.add_argument("--scout", type=Path, help="weights of benchmarks/scout.py for the named model")
    parser.add_argument("--steps", type=int, default=600, help="of models that are trained here")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="grouping and naming only")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for models, scans, masks")
    return parser.parse_args()


def _named(options: argparse.Namespace) -> Path:
    """The named model, with the scout that was given; it is taken for usable, so that what it spares is measured."""
    source = model_file(options.named) if options.named else _trained(options, NAMED)
    if options.scout is None:
        return source
    checkpoint = load_checkpoint(source)
    network = checkpoint.method.scout()
    network.load_state_dict(torch.load(options.scout, weights_only=True))
    part = TrainedNetwork(checkpoint.config, network.state_dict(), 0, {USABLE: 1.0})
    path: Path = options.work / "named-with-scout.pt"
    save_checkpoint(path, replace(checkpoint, networks={**checkpoint.networks, SCOUT: part}))
    return path


def _direct(options: argparse.Namespace) -> Path:
    """The model with a channel for each level, without its scout: it looks wherever the patient is."""
    checkpoint = load_checkpoint(model_file(options.direct) if options.direct else _trained(options, DIRECT))
    path: Path = options.work / "direct-without-scout.pt"
    save_checkpoint(path, replace(checkpoint, networks={}))
    return path


def _trained(options: argparse.Namespace, name: str) -> Path:
    """A model of the shipped config after a few steps on small patches; kept in the folder."""
    run: Path = options.work / f"{CONFIGS[name]}-{options.steps}-steps"
    if not (run / "best.pt").is_file():
        print(f"training {run} ...", flush=True)
        # The shipped network and grid; what makes a step quick is from models.py.
        quick = {key: value for key, value in TRAINING.items() if key.split(".")[0] not in ("network", "grid", "loss")}
        settings = quick | {"optim.steps_per_epoch": str(options.steps)}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "verse3d", "-q", "train", "--data", str(phantom_index(options.work))]
        subprocess.run([*command, "--out", str(run), "--config", CONFIGS[name], "--overwrite", *words], check=True)
    checkpoint = load_checkpoint(run / "best.pt")
    # It predicts with the windows that the shipped config has.
    shipped = load_config(CONFIGS[name])
    path = run.with_suffix(".pt")
    save_checkpoint(path, replace(checkpoint, config=shipped))
    return path


def _whole(size: str, models: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Both predictions of a scan, in turn; and how many times faster and smaller the named one is."""
    scan = make_scan(options.work, size)
    folders = {name: options.work / "masks" / f"cost-{CONFIGS[name]}" for name in models}
    jobs = {name: partial(run_ours, scan, model, folders[name]) for name, model in models.items()}
    outcomes = {name: median(runs) for name, runs in alternate(jobs, options.runs).items()}
    found = {name: _figures(one, folders[name]) for name, one in outcomes.items()}
    named, direct = outcomes[NAMED], outcomes[DIRECT]
    found["times faster"] = ratio(direct.seconds, named.seconds)
    found["times smaller"] = ratio(direct.peak_mb, named.peak_mb)
    print(f"{size}: named is {found['times faster']} x faster and {found['times smaller']} x smaller", flush=True)
    return found


def _figures(outcome: Outcome, folder: Path) -> dict[str, Any]:
    if outcome.trouble:
        return {"trouble": outcome.trouble}
    record = record_of(folder)
    return {
        "seconds": round(outcome.seconds, 2),
        "peak_gb": round(outcome.peak_mb / 1e3, 3),
        "windows": record["windows"],
        "windows_left_out": record["windows_left_out"],
        "levels": len(record["levels"]),
        "seconds_of": record["seconds_of"],
    }


def _alone(size: str) -> dict[str, Any]:
    """Grouping and naming the true bones of a phantom on so many voxels."""
    i, j, k = (int(number) for number in size.split("x"))
    parts, geometry = _scan((i, j, k))
    before = rss_mb()
    with MemoryWatch(0.005) as watch:
        peak, start = watch.peak(), time.perf_counter()
        named = SequenceNaming(keeps_partial=True).name(parts, geometry, None)
        seconds = time.perf_counter() - start
        megabytes = peak.mb - before
    return {
        "seconds": round(seconds, 2),
        "megabytes": round(megabytes, 1),
        "map_megabytes": round(parts.size / 1e6, 1),
        "vertebrae": len(named.vertebrae),
    }


def _scan(shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], Geometry]:
    """Parts of a phantom, as a mask lies in memory: the last axis is the slowest."""
    body = make_body(1, 0, DRAWN_MM)
    network_id = np.zeros(256, np.uint8)
    for number, label in enumerate(BONES.labels, start=1):
        network_id[label.id] = number
    parts = parts_of(torch.from_numpy(network_id[body.mask])[None, None], body.geometry.spacing_mm)[0, 0].numpy()
    nearest = [np.arange(fine) * coarse // fine for fine, coarse in zip(shape, parts.shape, strict=True)]
    affine = body.geometry.affine.copy()
    affine[:3, :3] *= np.array(parts.shape) / shape
    return parts.T[np.ix_(*nearest[::-1])].T, Geometry(shape, affine)


if __name__ == "__main__":
    main()
