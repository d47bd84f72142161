"""The peer, a program of its own: one scan from file to file with MONAI as its tutorials do it, float32, not compiled.

    python benchmarks/monai_stock.py SCAN --model best.pt --out FOLDER --note note.json [--windows-per-batch 4]
    python benchmarks/monai_stock.py SCAN --model best.pt --note note.json --calibrate     # which batch is quickest?

It takes network, weights, spacing, HU window and patch from a verse3d model file, and uses nothing else of verse3d.
One foreground class is cut at a probability of 0.5, several by argmax, on the grid of the scan. ``--carry
probabilities`` inverts the spacing after the sigmoid or softmax, as MONAI's bundles do, instead of before it.
The note says the seconds from here, where all is imported, to the written file, and the peak of resident memory.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)

CALIBRATED = (1, 2, 4)
POSTFIX = "stock"


def main() -> None:
    """Predict or calibrate, and leave a note."""
    start = time.perf_counter()
    options = _options()
    content = torch.load(options.model, map_location="cpu", weights_only=True)
    network = _network(content)
    with torch.inference_mode():
        if options.calibrate:
            note: dict[str, Any] = {"seconds_per_window": _calibrated(network, content["config"])}
            note["seconds"] = time.perf_counter() - start
        else:
            _predict(network, content["config"], options)
            note = {"seconds": time.perf_counter() - start, "peak_rss_mb": _peak_rss_mb()}
    options.note.write_text(json.dumps(note))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--note", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder for <scan>_stock.nii.gz")
    parser.add_argument("--windows-per-batch", type=int, default=4)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--carry", choices=("logits", "probabilities"), default="logits")
    parser.add_argument("--calibrate", action="store_true")
    return parser.parse_args()


def _network(content: dict[str, Any]) -> torch.nn.Module:
    settings, weights = content["config"]["network"], content["network"]
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1 if content["config"]["labels"]["scheme"] == "binary" else len(content["labels"]) + 1,
        channels=settings["channels"],
        strides=(2,) * (len(settings["channels"]) - 1),
        num_res_units=settings["residual_units"],
        norm=("INSTANCE", {"affine": True}),
    )
    network.load_state_dict(weights)
    return network.eval()


def _predict(network: torch.nn.Module, config: dict[str, Any], options: argparse.Namespace) -> None:
    before = _preprocessing(config["grid"])
    slide = SlidingWindowInferer(
        roi_size=config["sampling"]["patch_voxels"],
        sw_batch_size=options.windows_per_batch,
        overlap=options.overlap,
        mode="gaussian",
        padding_mode="constant",
    )
    item = before({"image": str(options.scan)})
    item["pred"] = slide(item["image"][None], network)[0]
    _postprocessing(before, options, binary=config["labels"]["scheme"] == "binary")(item)


def _preprocessing(grid: dict[str, Any]) -> Compose:
    low, high = grid["window_hu"]
    return Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=grid["spacing_mm"], mode="bilinear"),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def _postprocessing(before: Compose, options: argparse.Namespace, *, binary: bool) -> Compose:
    activated = options.carry == "probabilities"
    cut = {"threshold": 0.5 if activated else 0.0} if binary else {"argmax": True}
    return Compose(
        [
            *([Activationsd(keys="pred", sigmoid=binary, softmax=not binary)] if activated else []),
            Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted(keys="pred", **cut),
            SaveImaged(
                keys="pred",
                output_dir=options.out,
                output_postfix=POSTFIX,
                output_dtype=np.uint8,
                separate_folder=False,
                print_log=False,
            ),
        ]
    )


def _calibrated(network: torch.nn.Module, config: dict[str, Any]) -> dict[int, float]:
    """Seconds per window by how many the network sees at once; after one that is not counted, the better of two."""
    patch = config["sampling"]["patch_voxels"]
    network(torch.rand(1, 1, *patch))
    seconds = {}
    for size in CALIBRATED:
        windows = torch.rand(size, 1, *patch)
        seconds[size] = min(_seconds(network, windows) for _ in range(2)) / size
    return seconds


def _seconds(network: torch.nn.Module, windows: torch.Tensor) -> float:
    start = time.perf_counter()
    network(windows)
    return time.perf_counter() - start


def _peak_rss_mb() -> float:
    rows = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return float(next(rows).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
