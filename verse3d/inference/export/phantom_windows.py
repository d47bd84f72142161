"""What a trained network is shown: windows of a phantom scan, prepared by its own config."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from verse3d.core.config import Config
from verse3d.core.labels import training_scheme
from verse3d.core.resample import resample_vote
from verse3d.core.volume import Volume
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.grid import prepare_image
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.transforms import PreparedCase
from verse3d.model.modes import Method
from verse3d.phantoms import make_case

_SEED = 0


def windows_of_phantom(config: Config, case: PreparedCase, count: int) -> torch.Tensor:
    """Windows (count, n, ...) around vertebrae of ``phantom_case``, float32: drawn as for training, not augmented.

    Raises:
        ConfigError: settings contradict each other.
    """
    # Around vertebrae, unchanged: every window shows something, and two programs see the same.
    centred = config.sampling.model_copy(update={"foreground_fraction": 1.0})
    cut = Method(config.model_copy(update={"sampling": centred})).cut(augmented=False)
    random = np.random.RandomState(_SEED)
    boxes = PackedBatch.of([cut(case, random) for _ in range(count)])
    return Augment(cut.size)(boxes.on(torch.device("cpu")))["image"]


def phantom_case(config: Config) -> PreparedCase:
    """The phantom, as a training of this config would see it; always the same."""
    phantom = make_case(_SEED)
    volume = Volume(phantom.image_hu, phantom.geometry, nib.Nifti1Header(), Path("phantom"))
    image, grid = prepare_image(volume, config.grid)
    ids = training_scheme(config.labels.trained_on).network_from_verse(phantom.mask)
    label = resample_vote(ids, phantom.geometry, grid)
    return PreparedCase.of("phantom", image.astype(np.float16)[None], label[None], grid, phantom.geometry)
