"""The side of loader.py that runs in nnU-Net's own environment: its data set and loader.

Without transforms, or with those of its trainer. The scans are stored with nnU-Net's own functions as its preprocessing
leaves them (z-scores in float32, int8 masks, the block sizes that it plans for this patch, its sample of foreground
locations), and read with its worker processes.
"""

import argparse
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from loader_scans import count, side_options
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

BATCH, FOREGROUND = 4, 0.67
TURN, SCALE = (-np.pi / 6, np.pi / 6), (0.85, 1.25)
_LABELS = list(range(1, 29))


def main() -> None:
    """Prepare what is not prepared, and count patches."""
    options = side_options(__doc__, ("nnunet",))
    options.prepared.mkdir(parents=True, exist_ok=True)
    for number in range(options.cases):
        prepare(options, f"{number:03d}")
    count(batches(options), options.seconds, options.note, options.prepared)


def prepare(options: argparse.Namespace, name: str) -> None:
    """Store a scan as nnU-Net's preprocessing does."""
    out = options.prepared / name
    if out.with_suffix(".pkl").exists():
        return
    hu = np.asarray(nib.load(options.scans / f"{name}_ct.nii").dataobj).astype(np.float32)[None]
    ids = np.asarray(nib.load(options.scans / f"{name}_msk.nii").dataobj).astype(np.int8)[None]
    bone = hu[ids > 0]
    low, high = np.percentile(bone, [0.5, 99.5])
    data = (np.clip(hu, low, high) - bone.mean()) / bone.std()
    found = DefaultPreprocessor._sample_foreground_locations(ids, _LABELS)
    patch = (options.patch,) * 3
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(ids.shape, patch, ids.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        ids,
        {"class_locations": found},
        str(out),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )


def batches(options: argparse.Namespace) -> Iterator[int]:
    """nnU-Net's loader in its own worker processes."""
    labels = SimpleNamespace(all_labels=[0, *_LABELS], has_ignore_label=False)  # all that the loader asks for
    patch = (options.patch,) * 3
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(options.prepared)),
        BATCH,
        # Turned patches are cut from larger ones, as its trainer plans them.
        tuple(get_patch_size(patch, TURN, TURN, TURN, SCALE)) if options.augment else patch,
        patch,
        labels,
        oversample_foreground_percent=FOREGROUND,
        transforms=augmentation(patch) if options.augment else None,
    )
    augmenter = NonDetMultiThreadedAugmenter(loader, None, options.workers, num_cached=6, pin_memory=False)
    while True:
        yield int(next(augmenter)["data"].shape[0])


def augmentation(patch: tuple[int, ...]) -> Any:
    """What its trainer does with isotropic patches by default."""
    # Imported here, because the trainer imports all of nnU-Net.
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415

    return nnUNetTrainer.get_training_transforms(
        patch, TURN, None, (0, 1, 2), do_dummy_2d_data_aug=False, use_mask_for_norm=[False], foreground_labels=_LABELS
    )


if __name__ == "__main__":
    main()
