"""Small scans with their masks, a tiny network's config and its model file: what the commands are run on."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from fuzz.targets.nifti import affine
from verse3d.core.config import Config, parse_config
from verse3d.model.checkpoint import Checkpoint, save_checkpoint
from verse3d.model.modes import get_mode

SHAPE = (20, 26, 15)
SPACING_MM = (2.5, 3.0, 4.0)


def tiny_config() -> Config:
    """The smallest network that segments a volume."""
    return parse_config(
        {
            "grid": {"spacing_mm": [5.0, 5.0, 5.0]},
            "network": {"channels": [4, 8], "residual_units": 0},
            "sampling": {"patch_voxels": [16, 16, 16], "batch_size": 1},
            "optim": {"epochs": 4, "steps_per_epoch": 2, "warmup_steps": 1},
            "validation": {"every_epochs": 1, "pictures": 0, "loss_batches": 1},
            "inference": {"min_component_ml": 0.0, "overlap": 0.25},
            "runtime": {"amp": "off", "workers": 0, "deterministic": True, "save_minutes": 0},
        }
    )


def write_scan(folder: Path, name: str, seed: int = 0) -> tuple[Path, Path]:
    """A scan of three bright blocks and its mask (VerSe ids 19, 20, 21), as ``NAME_ct.nii.gz`` and its partner."""
    draw = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, np.uint8)
    for number, label in enumerate((19, 20, 21)):
        mask[6:15, 2 + 8 * number : 7 + 8 * number, 4:11] = label
    hu = draw.normal(0, 30, SHAPE) + 700 * (mask > 0)
    paths = folder / f"{name}_ct.nii.gz", folder / f"{name}_seg-vert_msk.nii.gz"
    folder.mkdir(parents=True, exist_ok=True)
    for path, voxels in zip(paths, (hu.astype(np.int16), mask), strict=True):
        image = nib.Nifti1Image(voxels, affine(SPACING_MM))
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, 1)
        nib.save(image, path)
    return paths


def write_model(path: Path, config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    """A model file with random weights, and those weights."""
    torch.manual_seed(seed)
    weights: dict[str, torch.Tensor] = get_mode(config.mode).network(config).state_dict()
    save_checkpoint(path, Checkpoint(config, weights, epoch=3, scores={"validation_dice": 0.5}))
    return weights
