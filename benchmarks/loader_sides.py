"""The sides of loader.py that run beside verse3d: its own loader, and MONAI's PersistentDataset and CacheDataset."""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from loader_scans import count, side_options
from torch.utils.data import DataLoader

SAMPLES = 4


def main() -> None:
    """Run one side and write its note."""
    options = side_options(__doc__, ("ours", "monai", "cache"))
    batches = ours(options) if options.side == "ours" else monai(options)
    if batches is not None:
        count(batches, options.seconds, options.note, options.prepared)


def ours(options: argparse.Namespace) -> Iterator[int]:
    """Batches of four from a prepared store, as training reads them, unchanged."""
    # Imported here, so that a worker of MONAI's side does not carry them.
    import torch  # noqa: PLC0415

    import verse3d.training.fit  # noqa: F401, PLC0415 - all that a training has loaded when it starts its workers
    from verse3d.core.config import parse_config  # noqa: PLC0415
    from verse3d.data.cases import Case  # noqa: PLC0415
    from verse3d.data.samples.augment import Augment  # noqa: PLC0415
    from verse3d.data.samples.packing import BoxTensors  # noqa: PLC0415
    from verse3d.data.samples.patches import BatchStream, PatchDataset  # noqa: PLC0415
    from verse3d.data.samples.preparation import prepare_cases  # noqa: PLC0415
    from verse3d.data.samples.prepare import Job  # noqa: PLC0415
    from verse3d.data.samples.store import open_store  # noqa: PLC0415
    from verse3d.data.samples.stored import StoredCases  # noqa: PLC0415
    from verse3d.model.modes import Method  # noqa: PLC0415
    from verse3d.training.feed import Feed  # noqa: PLC0415

    patch = [options.patch] * 3
    config = parse_config({"grid": {"spacing_mm": 1.0}, "sampling": {"patch_voxels": patch, "batch_size": SAMPLES}})
    store = open_store(options.prepared)
    names = [f"{number:03d}" for number in range(options.cases)]
    scans = options.scans
    cases = [Case(name, name, scans / f"{name}_ct.nii", scans / f"{name}_msk.nii") for name in names]
    jobs = [Job.of(store, config.grid, case) for case in cases]
    prepare_cases(jobs, options.workers)
    length = 64 * SAMPLES
    cut = Method(config).cut(augmented=options.augment)
    dataset = PatchDataset(StoredCases(jobs, "vertebrae"), cut, length=length, seed=0)

    class Untouched(Augment):
        """Takes the batches as they are: what the training device does with them is not measured here."""

        def __call__(self, boxes: Sequence[BoxTensors]) -> dict[str, torch.Tensor]:
            return {"label": torch.empty(len(boxes))}

    stream = BatchStream(length=length, batch_size=SAMPLES)
    feed = Feed(
        dataset,
        stream,
        Augment(cut.size) if options.augment else Untouched(cut.size),
        torch.device("cpu"),
        options.workers,
    )
    return (len(batch["label"]) for batch in feed)


def monai(options: argparse.Namespace) -> Iterator[int] | None:
    """Four patches of each case that comes up, as in MONAI's tutorials; None if the cache does not fit."""
    import torch  # noqa: PLC0415
    from monai.data import CacheDataset, PersistentDataset, list_data_collate  # noqa: PLC0415
    from monai.transforms import (  # noqa: PLC0415
        CastToTyped,
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
    )

    from verse3d.core.memory import free_memory_bytes  # noqa: PLC0415

    both = ("image", "label")
    # verse3d's default augmentation, said in MONAI's words, as in monai_training.py.
    changes = [
        RandFlipd(keys=both, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=both,
            prob=0.3,
            rotate_range=(0.26,) * 3,  # 15 degrees
            scale_range=(0.15,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandAdjustContrastd(keys="image", prob=0.3, gamma=(0.75, 1.35)),
        RandGaussianSmoothd(keys="image", prob=0.15, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), sigma_z=(0.3, 1.0)),
        RandGaussianNoised(keys="image", prob=0.2, std=0.03),
    ]
    chain = Compose(
        [
            LoadImaged(keys=both),
            EnsureChannelFirstd(keys=both),
            Orientationd(keys=both, axcodes="RAS"),
            Spacingd(keys=both, pixdim=(1.0, 1.0, 1.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged(keys="image", a_min=-250, a_max=1250, b_min=0.0, b_max=1.0, clip=True),
            CastToTyped(keys=both, dtype=(torch.float32, torch.uint8)),
            RandCropByPosNegLabeld(
                keys=both, label_key="label", spatial_size=(options.patch,) * 3, pos=2, neg=1, num_samples=SAMPLES
            ),
            *(changes if options.augment else ()),
        ]
    )
    files: list[dict[str, Any]] = [
        {"image": str(options.scans / f"{number:03d}_ct.nii"), "label": str(options.scans / f"{number:03d}_msk.nii")}
        for number in range(options.cases)
    ]
    if options.side == "cache":
        voxels = sum(path.stat().st_size for path in options.scans.glob("*_msk.nii"))
        need, free = (
            5.0 * voxels * options.cases / max(1, len(list(options.scans.glob("*_msk.nii")))),
            free_memory_bytes(),
        )
        if need > 0.8 * free:
            trouble = f"does not fit: needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            figures = {"patches_s": 0.0, "cpu_ms": 0.0, "worker_mb": 0.0, "disk_gb": 0.0, "trouble": trouble}
            options.note.write_text(json.dumps({"seconds": 0.0, **figures}))
            return None
        dataset: Any = CacheDataset(files, chain, num_workers=options.workers, progress=False)
    else:
        dataset = PersistentDataset(files, chain, cache_dir=options.prepared)
        for number in range(len(files)):
            dataset[number]  # fills the cache
    loader = DataLoader(
        dataset,
        batch_size=1,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=True,
        collate_fn=list_data_collate,
    )
    epochs = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    return (int(batch["image"].shape[0]) for batch in epochs)


if __name__ == "__main__":
    main()
