"""Small awkward scans for tests: odd sizes, any axis order, oblique, with blocks that stand for vertebrae."""

import errno
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.openers import ImageOpener
from torch import nn

from verse3d.core.config import Config, parse_config
from verse3d.core.geometry import Geometry
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.model.checkpoint import Checkpoint, TrainedNetwork, save_checkpoint
from verse3d.model.checksum import content_sha256
from verse3d.model.modes import MODES
from verse3d.model.scout import ScoutNetwork
from verse3d.training.runfolder import write_history

TINY = {
    "grid": {"spacing_mm": [4.0, 4.0, 4.0], "window_hu": [-250, 1250]},
    "network": {"channels": [4, 8], "residual_units": 1},
    "sampling": {"patch_voxels": [16, 16, 16], "batch_size": 2},
    "slices": {"size_pixels": [18, 24]},
    "optim": {"lr": 0.01, "epochs": 4, "steps_per_epoch": 2, "warmup_steps": 2},
    "validation": {"every_epochs": 1, "pictures": 0, "time_share": 1.0, "loss_batches": 2},
    "inference": {"min_component_ml": 0.0},
    "runtime": {"amp": "off", "workers": 0},
    "scout": {"enabled": False, "channels": [4, 8, 8]},
}


def tiny_config(mode="3d", **sections) -> Config:
    """The smallest useful config, with some values changed: ``tiny_config(optim={"lr": 0.1})``."""
    values = {"mode": mode} | {name: dict(section) for name, section in TINY.items()}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values)


def orientation(axes, signs, spacing_mm, shape, origin=(-31.0, 17.0, 240.0)) -> Geometry:
    """Index axis n grows along world axis ``axes[n]`` in the direction ``signs[n]``."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for number, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, number] = sign * spacing_mm[number]
    affine[:3, 3] = origin
    return Geometry(shape, affine)


def all_orientations(spacing_mm, shape):
    """All 48 ways to permute and flip the axes."""
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield orientation(axes, signs, spacing_mm, shape)


def turned(geometry: Geometry, degrees=(11.0, -8.0, 17.0)) -> Geometry:
    """The same grid rotated about the world's axes: an oblique scan."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[one, one, two, two], [one, two, one, two]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ step
    affine = geometry.affine.copy()
    affine[:3] = turn @ affine[:3]
    return Geometry(geometry.shape, affine)


PIR = orientation((1, 2, 0), (-1, -1, 1), (2.5, 3.0, 4.0), (26, 30, 18))
"""The usual order of VerSe's axes."""


def write_nifti(path: Path, array, affine, *, sform=1, qform=1, kind=nib.Nifti1Image) -> Path:
    """Store voxels with both forms written out and the given codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(array, affine, dtype=array.dtype)
    image.set_qform(affine, code=qform)
    image.set_sform(affine, code=sform)
    nib.save(image, path)
    return path


@dataclass
class Spine:
    """Voxels of a scan and of its mask, and their grid."""

    hu: np.ndarray
    mask: np.ndarray
    geometry: Geometry

    def write(self, ct: Path, mask: Path | None = None) -> Path:
        write_nifti(ct, self.hu, self.geometry.affine)
        if mask is not None:
            write_nifti(mask, self.mask, self.geometry.affine)
        return ct


def spine(seed=0, geometry=PIR, ids=(19, 20, 21)) -> Spine:
    """Bright blocks in soft tissue, one per id, along the second axis; the noise depends on the seed."""
    random = np.random.default_rng(seed)
    hu = random.normal(0, 30, geometry.shape)
    mask = np.zeros(geometry.shape, dtype=np.uint8)
    height = geometry.shape[1] // (len(ids) + 1)
    for number, label in enumerate(ids):
        start = 2 + number * height + int(random.integers(0, 2))
        mask[8:19, start : start + height - 2, 5 : 12 + int(random.integers(0, 3))] = label
    hu[mask > 0] += 700
    return Spine(hu.astype(np.int16), mask, geometry)


def write_cases(folder: Path, count: int, grid=lambda _: PIR) -> list[Case]:
    """Scans ``case0`` ... without masks, each with the grid that belongs to its number."""
    cases = []
    for number in range(count):
        path = folder / f"case{number}_ct.nii.gz"
        spine(number, grid(number)).write(path)
        cases.append(Case(f"case{number}", f"case{number}", path))
    return cases


def write_truth(folder: Path, count: int) -> CaseIndex:
    """Test cases ``c0`` ... with masks."""
    cases = []
    for number in range(count):
        ct, mask = folder / f"c{number}_ct.nii.gz", folder / f"c{number}_msk.nii.gz"
        spine(number).write(ct, mask)
        cases.append(Case(f"c{number}", f"c{number}", ct, mask, split="test"))
    return CaseIndex(tuple(cases))


def write_dataset(folder: Path, splits=("train", "train", "train", "validation")) -> CaseIndex:
    """Cases ``case0`` ... with the given splits, each with another grid."""
    cases = []
    for number, split in enumerate(splits):
        grid = PIR if number % 2 else turned(orientation((0, 1, 2), (-1, 1, 1), (3.0, 2.5, 3.5), (25, 31, 19)))
        name = f"case{number}"
        ct, mask = folder / f"{name}_ct.nii.gz", folder / f"{name}_seg-vert_msk.nii.gz"
        spine(number, grid).write(ct, mask)
        cases.append(Case(name, name, ct, mask, split=split))
    return CaseIndex(tuple(cases))


class ThresholdNet(nn.Module):
    """Knows nothing but grey values: 0 ... 1 becomes vertebra above ``cut`` (binary) or the nearest of n + 1 greys."""

    def __init__(self, channels=1, cut=0.5, steepness=20.0):
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(cut))
        self.channels, self.steepness = channels, steepness

    def forward(self, image):
        if self.channels == 1:
            return (image - self.cut) * self.steepness
        greys = torch.linspace(0, 1, self.channels).reshape(1, -1, 1, 1, 1)
        return -((image - greys) ** 2) * 1e4


def use_threshold_network(monkeypatch, cut=0.35) -> None:
    """Every checkpoint from now on is one of a ``ThresholdNet``, whatever its config says."""

    def build(config):
        return ThresholdNet(config.labels.network_scheme.output_channels, cut)

    monkeypatch.setitem(MODES, "3d", replace(MODES["3d"], network=build))


def save_model(path: Path, config: Config, *, seed: int | None = None) -> Path:
    """A checkpoint of a network that labels nothing (all weights 0), or one with random weights."""
    torch.manual_seed(seed or 0)
    network = MODES[config.mode].network(config)
    weights = network.state_dict()
    if seed is None and not isinstance(network, ThresholdNet):
        weights = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    save_checkpoint(path, Checkpoint(config, weights, epoch=1, scores={}))
    return path


def scout_part(config: Config, scores: dict[str, float]) -> TrainedNetwork:
    """A scout with random weights, as it lies in a model file."""
    return TrainedNetwork(config, ScoutNetwork(config.scout.channels).state_dict(), epoch=1, scores=scores)


def save_sealed(content: dict, path: Path) -> None:
    """A model file with any content under the checksum that belongs to it, as another program could write it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    torch.save({**rest, "sha256": content_sha256(rest)}, path)


class Disk:
    """A file opened for writing whose bytes pass through ``change`` on their way."""

    def __init__(self, handle, change):
        self._handle, self._change = handle, change

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.close()

    def write(self, content):
        return self._handle.write(self._change(bytes(content)))

    def writelines(self, contents):
        for content in contents:
            self.write(content)


def spoil_disk(monkeypatch, word: str, change) -> None:
    """All bytes of NIfTI files with ``word`` in their names pass through ``change`` before they are written.

    Those that nibabel writes, too: there it is the bytes before they are packed.
    """
    open_file, write = Path.open, ImageOpener.write

    def write_spoiled(opener, content):
        return write(opener, change(bytes(content)) if word in Path(opener.name).name else content)

    def open_spoiled(path, mode="r", *args, **options):
        handle = open_file(path, mode, *args, **options)
        spoiled = "w" in mode and word in path.name and path.name.lower().endswith((".nii", ".nii.gz"))
        return Disk(handle, change) if spoiled else handle

    monkeypatch.setattr(Path, "open", open_spoiled)
    monkeypatch.setattr(ImageOpener, "write", write_spoiled)


def fill_disk(monkeypatch, word: str, room: int = 20) -> None:
    """Masks with ``word`` in their names meet a full disk after ``room`` bytes."""
    left = [room]

    def until_full(content):
        left[0] -= len(content)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return content

    spoil_disk(monkeypatch, word, until_full)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files below a folder."""
    return [path for path in folder.rglob("*") if path.name.startswith(".verse3d-")]


def write_run(
    folder: Path, config: Config, index: CaseIndex | None, *, seed: int | None = None, minutes: float = 2.5
) -> Path:
    """What a training of three epochs leaves behind, without one: the model labels nothing or has random weights."""
    save_model(folder / "best.pt", config, seed=seed)
    (folder / "config.yaml").write_text(config.to_yaml())
    history = [
        {"epoch": epoch, "step": 2 * epoch, "train_loss": 1 / epoch, "minutes": minutes * epoch / 3}
        for epoch in (1, 2, 3)
    ]
    write_history(folder / "history.csv", history)
    if index is not None:
        write_index(folder / "cases.jsonl", index)
    return folder
