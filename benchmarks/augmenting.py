"""Milliseconds per patch for the same random changes by verse3d, MONAI, kornia and TorchIO, on one device.

    python benchmarks/augmenting.py [--device cuda] [--batch 8] [--patch 96] [--seconds 5]

Two jobs on patches of image and label that lie on the device: rotation and scale (image linear, label nearest), and
these with gamma, blur and noise. Every change happens to every patch. MONAI runs lazily on device tensors, patch by
patch as its transforms are made; kornia's 3D augmentations run on batches and know no gamma, blur or noise in 3D;
TorchIO computes on the CPU. Peers that are not installed are left out. The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised, RandGaussianSmoothd

from verse3d.core.augmenting import NO_AUGMENTATION
from verse3d.core.runtime import choose_device
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.cut import Box
from verse3d.data.samples.draws import ChangeDraws
from verse3d.data.samples.packing import PackedBatch

TURN, SCALE, GAMMA, BLUR, NOISE = 15.0, 0.15, (0.75, 1.35), (0.3, 1.0), 0.03
Job = Callable[[], Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    device, size = choose_device(options.device), (options.patch,) * 3
    figures: dict[str, float] = {}
    for grey in (False, True):
        for name, make in PEERS.items():
            job = make(size, options.batch, device, grey)
            if job is not None:
                key = f"{name}_{'all' if grey else 'affine'}_ms"
                figures[key] = round(milliseconds(job, options.seconds, device) / options.batch, 3)
                print(f"{key:22} {figures[key]:9.2f}", flush=True)
    print(json.dumps({"device": str(device), "batch": options.batch, "patch": options.patch, **figures}))


def milliseconds(job: Job, seconds: float, device: torch.device) -> float:
    """Of one call, after two that are not counted."""
    for _ in range(2):
        job()
    wait(device)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        job()
        calls += 1
        wait(device)
    return 1e3 * (time.perf_counter() - started) / calls


def wait(device: torch.device) -> None:
    """For the end of what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(size: tuple[int, ...], batch: int, device: torch.device, grey: bool) -> Job:
    """Boxes as large as each turned patch needs, in one block; drawing is part of the job."""
    settings = {"affine": 1.0} | (dict.fromkeys(("contrast", "blur", "noise"), 1.0) if grey else {})
    draws = ChangeDraws(NO_AUGMENTATION.model_copy(update=settings), (1.5,) * len(size), mirrors=False)
    random, augment = np.random.RandomState(0), Augment(size)
    boxes = []
    for _ in range(batch):
        changes = draws.draw(random)
        shape = tuple(int(2 * reach) + 2 for reach in changes.warp.reach(size)) if changes.warp else size
        image = np.random.default_rng(0).random((1, *shape), np.float32).astype(np.float16)
        middle = tuple((length - 1) / 2 for length in shape)
        boxes.append(Box(image, (image > 0.5).astype(np.uint8), middle, changes))
    ready = PackedBatch.of(boxes).on(device)

    def job() -> Any:
        for _ in range(batch):
            draws.draw(random)
        return augment(ready)

    return job


def monai(size: tuple[int, ...], batch: int, device: torch.device, grey: bool) -> Job:
    """Dictionary transforms on tensors of the device, resampling put off until it must be done."""
    turn, both = (np.deg2rad(TURN),) * 3, ("image", "label")
    affine = RandAffined(
        keys=both, prob=1, rotate_range=turn, scale_range=(SCALE,) * 3, mode=("bilinear", "nearest"), device=device
    )
    blur = RandGaussianSmoothd(keys="image", prob=1, sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR)
    change = [RandAdjustContrastd(keys="image", prob=1, gamma=GAMMA), blur]
    change.append(RandGaussianNoised(keys="image", prob=1, std=NOISE))
    chain = Compose([affine, *(change if grey else [])], lazy=True)
    image = torch.rand((1, *size), device=device)
    return lambda: [chain({"image": image.clone(), "label": (image > 0.5).float()}) for _ in range(batch)]


def kornia(size: tuple[int, ...], batch: int, device: torch.device, grey: bool) -> Job | None:
    """The same parameters for image and label."""
    if grey or importlib.util.find_spec("kornia") is None:
        return None
    from kornia.augmentation import RandomAffine3D  # noqa: PLC0415 - an optional peer

    degrees, scale = (TURN,) * 3, ((1 - SCALE, 1 + SCALE),) * 3
    linear, nearest = (RandomAffine3D(degrees, scale=scale, resample=how, p=1.0) for how in ("bilinear", "nearest"))
    image = torch.rand((batch, 1, *size), device=device)

    def job() -> Any:
        turned = linear(image)
        return turned, nearest((image > 0.5).float(), params=linear._params)

    return job


def torchio(size: tuple[int, ...], batch: int, device: torch.device, grey: bool) -> Job | None:
    """Subjects on the CPU, whatever the device."""
    if device.type != "cpu" or importlib.util.find_spec("torchio") is None:
        return None
    import torchio as tio  # noqa: PLC0415 - an optional peer

    change = [tio.RandomAffine(scales=SCALE, degrees=TURN)]
    if grey:
        change += [tio.RandomGamma(log_gamma=0.3), tio.RandomBlur(std=BLUR), tio.RandomNoise(std=(0, NOISE))]
    chain, image = tio.Compose(change), torch.rand((1, *size))
    subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=(image > 0.5).to(torch.uint8)))
    return lambda: [chain(subject) for _ in range(batch)]


PEERS = {"verse3d": ours, "monai": monai, "kornia": kornia, "torchio": torchio}

if __name__ == "__main__":
    main()
