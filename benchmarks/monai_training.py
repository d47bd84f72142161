"""The peer of ``train_throughput.py``: a training loop as MONAI's tutorials write it, on the same scans and network.

CacheDataset, a loader with persistent workers, RandCropByPosNegLabeld, the same augmentations as verse3d's config, AMP
(bf16 where the GPU has it), AdamW, and the loss read after every step.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss, DiceLoss
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    ScaleIntensityRanged,
    Spacingd,
    ThresholdIntensityd,
)
from torch.utils.data import RandomSampler

from verse3d.core.config import Config, load_config
from verse3d.core.runtime import choose_device, choose_precision
from verse3d.model.networks import build_network

SAMPLES_PER_SCAN = 4
WARM_UP_STEPS = 10


def main() -> None:
    """Train for some seconds and leave a note."""
    options = _options()
    config, device = load_config(options.config, options.set), choose_device(options.device)
    started = time.perf_counter()
    loader = patches(options.work / "scans", config, options.workers, device)
    cached = time.perf_counter() - started
    note = {**train(loader, config, device, options.seconds), "caching_s": round(cached, 1), "workers": options.workers}
    options.note.write_text(json.dumps(note))


def patches(folder: Path, config: Config, workers: int, device: torch.device) -> DataLoader:
    """Endless enough batches of augmented patches."""
    scans = sorted(folder.glob("*_ct.nii"))[:-1]
    files = [{"image": str(ct), "label": str(ct).replace("_ct.nii", "_seg-vert_msk.nii")} for ct in scans]
    per_scan = min(SAMPLES_PER_SCAN, config.sampling.batch_size)
    dataset = CacheDataset(files, chain(config, per_scan), progress=False, num_workers=workers)
    return DataLoader(
        dataset,
        batch_size=config.sampling.batch_size // per_scan,
        sampler=RandomSampler(dataset, replacement=True, num_samples=100_000),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def chain(config: Config, per_scan: int) -> Compose:
    """From files to patches; CacheDataset keeps what comes before the first random transform."""
    both, (low, high), augment = ("image", "label"), config.grid.window_hu, config.augment
    turn = float(np.deg2rad(augment.rotate_degrees))
    return Compose(
        [
            LoadImaged(keys=both),
            EnsureChannelFirstd(keys=both),
            Orientationd(keys=both, axcodes="RAS"),
            Spacingd(keys=both, pixdim=config.grid.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
            ThresholdIntensityd(keys="label", threshold=0.5, above=False, cval=1.0),
            RandCropByPosNegLabeld(
                keys=both,
                label_key="label",
                spatial_size=config.sampling.patch_voxels,
                pos=config.sampling.foreground_fraction,
                neg=1 - config.sampling.foreground_fraction,
                num_samples=per_scan,
            ),
            RandFlipd(keys=both, prob=augment.mirror_left_right, spatial_axis=0),
            RandAffined(
                keys=both,
                prob=augment.affine,
                rotate_range=(turn,) * 3,
                scale_range=(augment.scale_fraction,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd(keys="image", prob=augment.contrast, gamma=augment.gamma),
            RandGaussianSmoothd(
                keys="image",
                prob=augment.blur,
                sigma_x=augment.blur_voxels,
                sigma_y=augment.blur_voxels,
                sigma_z=augment.blur_voxels,
            ),
            RandGaussianNoised(keys="image", prob=augment.noise, std=augment.noise_std),
        ]
    )


def train(loader: DataLoader, config: Config, device: torch.device, seconds: float) -> dict[str, Any]:
    """Patches per second after the first steps."""
    torch.backends.cudnn.benchmark = True
    network = build_network(config.network, spatial_dims=3, output_channels=1).to(device)
    loss_of = (DiceCELoss if config.loss.name == "dice_ce" else DiceLoss)(sigmoid=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.optim.lr)
    precision = choose_precision(config.runtime.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scales_loss)
    steps, waited, started, asked = 0, 0.0, time.perf_counter(), time.perf_counter()
    for number, batch in enumerate(loader, 1):
        image, label = batch["image"].to(device, non_blocking=True), batch["label"].to(device, non_blocking=True)
        waited += time.perf_counter() - asked
        optimizer.zero_grad()
        with precision.autocast(device):
            loss = loss_of(network(image), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        steps, asked = steps + 1, time.perf_counter()
        if number == (WARM_UP_STEPS if device.type == "cuda" else 1):
            steps, waited, started = 0, 0.0, time.perf_counter()
        elif steps and time.perf_counter() - started > seconds:
            break
    spent = time.perf_counter() - started
    rate = steps * config.sampling.batch_size / spent
    return {"patches_per_s": round(rate, 2), "waiting_share": round(waited / spent, 4), "steps": steps}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with scans/")
    parser.add_argument("--note", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", default="unet3d")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
