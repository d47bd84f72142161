"""The side of loader.py that runs in nnU-Net's own environment: its data set and loader, without transforms.

The scans are stored with nnU-Net's own functions as its preprocessing leaves them (z-scores in float32, int8 masks, the
block sizes that it plans for this patch, its sample of foreground locations), and read with its worker processes.
"""

import argparse
from collections.abc import Iterator
from types import SimpleNamespace

import nibabel as nib
import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from loader_scans import count, side_options
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

BATCH, FOREGROUND = 4, 0.67
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
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(options.prepared)),
        BATCH,
        (options.patch,) * 3,
        (options.patch,) * 3,
        labels,
        oversample_foreground_percent=FOREGROUND,
    )
    augmenter = NonDetMultiThreadedAugmenter(loader, None, options.workers, num_cached=6, pin_memory=False)
    while True:
        yield int(next(augmenter)["data"].shape[0])


if __name__ == "__main__":
    main()
