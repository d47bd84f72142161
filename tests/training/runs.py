"""What tests of whole trainings share: starting tiny ones, and comparing two to the last bit."""

import csv
import math
from dataclasses import dataclass

import torch

from tests.scans import tiny_config
from verse3d.training.fit import fit
from verse3d.training.session import FitOptions

CPU = torch.device("cpu")
UNVALIDATED = tiny_config(validation={"every_epochs": 100, "loss_batches": 0})
"""Whole scans are validated at the very end only: for tests of something else."""
UNVALIDATED_2D = tiny_config("2d", validation={"every_epochs": 100, "loss_batches": 0})
DROPOUT = {"network": {"dropout": 0.3}}
UNVALIDATED_DROPOUT = tiny_config(**DROPOUT, validation={"every_epochs": 100, "loss_batches": 0})
TIMES = (
    "sha256",
    "minutes",
    "patches_per_s",
    "waiting_share",
    "validation_minutes",
    "last_validation_minutes",
    "epoch_seconds",
    "epoch_waited",
)
"""What differs between two runs that are the same."""


def train(index, out, config=None, **options):
    """A run whose cases were prepared by an earlier one of the same index, if there was one."""
    # Beside the folder of the scans: a store notices by itself what has changed since.
    for case in index.cases[:1]:
        folder = case.image.parent
        options.setdefault("store", folder.with_name(f"{folder.name}.store"))
    return fit(config or tiny_config(), index, out, FitOptions(device=CPU, **options))


def rows(out):
    with (out / "history.csv").open() as table:
        return list(csv.DictReader(table))


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(one, other, place=""):
    """Equal to the last bit, through all dicts and lists."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            if key not in TIMES:
                assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other or (math.isnan(one) and math.isnan(other)), place


def assert_same_run(one, other):
    for name in ("last.pt", "best.pt"):
        assert_same(load(one / name), load(other / name), name)
    for a, b in zip(rows(one), rows(other), strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}


@dataclass
class InterruptAt:
    """A progress callback that is Ctrl-C in one batch."""

    step: int

    def __call__(self, what, done, total):
        if what.startswith("epoch") and done == self.step:
            raise KeyboardInterrupt
