"""Predict one scan from file to file, with verse3d and with the stock MONAI pipeline, and print the ratio.

    python benchmarks/predict.py --scan 512x512x500 --classes 2                      # the defaults, three runs of each
    python benchmarks/predict.py --scan 256x256x200 --classes 27 --ours torch-f32,openvino-f32
    python benchmarks/predict.py --classes 27 --weights random --no-stock            # a network that is unsure
    python benchmarks/predict.py --scan 64x64x48 --classes 2 --runs 1 --ours auto    # a quick look

Both label the same scan with the same weights, windows, overlap and Gaussian; the stock pipeline (monai_stock.py) in
float32 and with the batch of windows that suits it best. Every run is a program of its own, in turn. The seconds go
from the end of the imports to the written mask; the whole process is timed, too; figures are medians, and each ratio is
stock over ours. Ours cleans its mask up, so before the masks are compared that of the stock pipeline is cleaned alike.
What the models are, and how the scans are made, is said in models.py and scans.py; what is missing is made first. The
last line is JSON: of each contestant the seconds, those of the whole process, the peak of memory, how many times as
fast it is as the stock pipeline, and (ours) how long each stage took and how long all but the network.
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Agreement, Outcome, agreement, alone_in, alternate, machine, median, ratio, record_of
from models import SCHEMES, SPACING_MM, model_for, random_model
from numpy.typing import NDArray
from pipelines import VARIANTS, Stock, call_once, compile_package, known, our_mask, quickest_batch, run_ours, stock_mask
from scans import make_scan

from verse3d.core.labels import label_scheme
from verse3d.core.memory import free_memory_bytes
from verse3d.core.volume import read_labels
from verse3d.inference.postprocess import clean_up
from verse3d.model.checkpoint import load_checkpoint

STOCK = "stock MONAI"


def main() -> None:
    """Measure and print."""
    options = _options()
    with alone_in(options.work):
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    names = known(options.ours.split(","))
    scan = make_scan(options.work, options.scan)
    models = {amp: _model(options, amp) for amp in ("auto", "off")}
    compile_package()
    print(f"{scan.name}, {options.classes} classes, overlap {options.overlap}, {options.runs} runs, {machine()}")
    folders = {name: options.work / "masks" / name.replace(" ", "-") for name in (STOCK, *names)}
    jobs: dict[str, Callable[[], Outcome]] = {}
    if not options.no_stock:
        batch = options.stock_batch or quickest_batch(scan, models["off"], options.work)
        stock = Stock(batch, options.overlap, options.carry, options.stock_limit_gb)
        jobs[STOCK] = partial(stock.run, scan, models["off"], folders[STOCK])
    for name in names:
        variant = VARIANTS[name]
        call_once(name, models[variant.amp], options.work)
        jobs[name] = partial(run_ours, scan, models[variant.amp], folders[name], variant.arguments)
    outcomes = {name: median(runs) for name, runs in alternate(jobs, options.runs).items()}
    _print_times(outcomes)
    done = {name: folders[name] for name, one in outcomes.items() if not one.trouble}
    _print_masks(scan, models["auto"], done)
    told = {name: _told(name, one, outcomes.get(STOCK), done) for name, one in outcomes.items()}
    print(json.dumps({"machine": machine(), "scan": options.scan, "classes": options.classes, "runs": told}))


def _model(options: argparse.Namespace, amp: str) -> Path:
    if options.weights == "random":
        return random_model(
            options.work, options.classes, overlap=options.overlap, amp=amp, spacing_mm=options.spacing_mm
        )
    return model_for(
        options.work,
        options.classes,
        overlap=options.overlap,
        amp=amp,
        steps=options.steps,
        scout=options.scout,
        spacing_mm=options.spacing_mm,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", default="512x512x500", help="voxels along i, j, k")
    parser.add_argument("--classes", type=int, choices=SCHEMES, default=2)
    parser.add_argument("--weights", choices=("trained", "random"), default="trained", help="random: a mask of noise")
    parser.add_argument("--spacing-mm", type=float, default=SPACING_MM, help="grid of the models")
    parser.add_argument("--scout", action="store_true", help="trained models have that of the starter weights")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--ours", default="torch,openvino", help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--overlap", type=float, default=0.25, help="of neighbouring windows")
    parser.add_argument("--no-stock", action="store_true", help="only ours, without ratios")
    parser.add_argument("--stock-batch", type=int, help="windows per batch; else the quickest of 1, 2 and 4")
    parser.add_argument(
        "--stock-limit-gb",
        type=float,
        default=free_memory_bytes() / 1e9 - 1.0,
        help="stop the stock pipeline beyond this; else all that is free but 1 GB",
    )
    parser.add_argument(
        "--carry",
        choices=("logits", "probabilities"),
        default="probabilities",
        help="what the stock pipeline carries back to the grid of the scan; ours carries probabilities",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for models, scans, masks")
    parser.add_argument("--steps", type=int, help="of the training of the model, instead of the usual ones")
    return parser.parse_args()


def _print_times(outcomes: dict[str, Outcome]) -> None:
    nothing = Outcome(math.nan, math.nan, math.nan)
    stock = outcomes.get(STOCK, nothing)
    if stock.trouble:
        stock = nothing
    print(
        f"{'median of':16} {'seconds':>9} {'process':>9} {'peak GB':>8} {'ratio':>7} {'of process':>10} {'of peak':>8}"
    )
    for name, one in outcomes.items():
        if one.trouble:
            print(f"{name:16} {one.trouble}")
            continue
        print(
            f"{name:16} {one.seconds:9.2f} {one.wall_seconds:9.2f} {one.peak_mb / 1e3:8.2f} "
            f"{ratio(stock.seconds, one.seconds):>7} "
            f"{ratio(stock.wall_seconds, one.wall_seconds):>10} {ratio(stock.peak_mb, one.peak_mb):>8}"
        )


def _told(name: str, one: Outcome, stock: Outcome | None, folders: dict[str, Path]) -> dict[str, Any]:
    """One contestant for the JSON line."""
    if one.trouble:
        return {"trouble": one.trouble}
    found = {"seconds": one.seconds, "process_seconds": one.wall_seconds, "peak_gb": one.peak_mb / 1e3}
    if stock and not stock.trouble:
        found |= {"ratio": stock.seconds / one.seconds, "process_ratio": stock.wall_seconds / one.wall_seconds}
    rounded: dict[str, Any] = {key: round(value, 3) for key, value in found.items()}
    if name == STOCK:
        return rounded
    record = record_of(folders[name])
    # Of the last run. The first scan is read and prepared while the network is opened, so neither is waited for.
    stages = record["seconds_of"]
    beside = one.seconds - stages["network"]
    return {
        **rounded,
        "stages": stages,
        "beside_network": round(beside, 3),
        "foretold_gb": record["plan"]["peak_mb"] / 1e3,
    }


def _print_masks(scan: Path, model: Path, folders: dict[str, Path]) -> None:
    """How much each mask of ours holds, how it agrees with the stock one, and the time that was not the network's."""
    theirs = _cleaned_stock(scan, model, folders[STOCK]) if STOCK in folders else None
    for name in [name for name in folders if name != STOCK]:
        ours = read_labels(our_mask(folders[name])).array
        share = f"labelled {100 * np.count_nonzero(ours) / ours.size:.2f} %"
        alike: Agreement | str = "no stock mask" if theirs is None else agreement(theirs, ours)
        print(f"{name:16} {share}; against stock: {alike}; {_not_network(record_of(folders[name]))}")


def _cleaned_stock(scan: Path, model: Path, folder: Path) -> NDArray[np.uint8]:
    """The mask of the stock pipeline, cleaned up as ours are, in the ids of our files."""
    config = load_checkpoint(model).config
    mask = read_labels(stock_mask(scan, folder))
    cleaned = clean_up(np.ascontiguousarray(mask.array), mask.geometry, config.inference)
    return label_scheme(config.labels.scheme).file_from_network(cleaned)


def _not_network(record: dict[str, Any]) -> str:
    """The share of our time that is not the network, and the windows it was spared, where predictions.json tells."""
    stages, seconds = record.get("seconds_of"), record["seconds"]
    if not stages:
        return "share that is not the network: not told by this verse3d"
    shown = ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())
    windows = f"{record['windows']} windows, {record['windows_left_out']} left out"
    return f"not the network: {100 * (1 - stages['network'] / seconds):.0f} % of {seconds:.1f} s ({shown}); {windows}"


if __name__ == "__main__":
    main()
