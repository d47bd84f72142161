"""The rows of ``screen_recipe.py``: what each changes in a config, and what else it learns from."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

CHEST, RARELY = "chest_ct", "chest_ct-rarely"
DRAWN, PHANTOMS = "drawn", "phantoms"
BASE, AND = "base", "+"


@dataclass(frozen=True)
class Row:
    """What is changed."""

    settings: tuple[str, ...] = ()
    also: str = ""
    """Learnt from beside the expert scans: CHEST, then as often as each of them; RARELY, half as often; or DRAWN."""
    first: str = ""
    """Learnt from before them: DRAWN or PHANTOMS."""
    config: str = ""
    """Another config than that of ``base``."""

    def __add__(self, other: "Row") -> "Row":
        """Both changes."""
        twice = [name for name in ("also", "first", "config") if getattr(self, name) and getattr(other, name)]
        if twice:
            raise ValueError(f"both rows say {' and '.join(twice)}")
        return Row(
            self.settings + other.settings,
            self.also or other.also,
            self.first or other.first,
            self.config or other.config,
        )


ROWS = {
    BASE: Row(),
    "chest": Row(also=CHEST),
    "chest-rarely": Row(also=RARELY),
    "chest-borders": Row(("labels.automatic_borders=ignore",), also=CHEST),
    "first-drawn": Row(first=DRAWN),
    "first-phantoms": Row(first=PHANTOMS),
    "also-drawn": Row(also=DRAWN),
    "ignore-cut": Row(("labels.cut_vertebrae=ignore",)),
    "no-margin": Row(("sampling.margin_voxels=0",)),
    "negatives": Row(("sampling.foreground_fraction=0.3",)),
    "thick-slices": Row(("augment.thick_slices=0.3", "augment.low_resolution=0.1")),
    "noise": Row(("augment.noise=0.5", "augment.noise_std=0.05", "augment.gain=0.3")),
    "six-levels": Row(("network.channels=[16,32,64,128,256,256]",)),
    "no-residual-units": Row(("network.residual_units=0",)),
    "narrow-bottom": Row(("network.channels=[16,32,64,128,128]",)),
    "slices": Row(config="slices2d-cpu"),
    "slices-mm": Row(config="slices2d-mm"),
}
"""Of every config."""
OF_CONFIG: Mapping[str, Mapping[str, Row]] = {
    "unet3d-cpu": {
        "spacing-1.5": Row(("grid.spacing_mm=1.5",)),
        "spacing-1.0": Row(("grid.spacing_mm=1.0",)),
        "batch-2": Row(("sampling.batch_size=2",)),
        "large-patches": Row(("sampling.patch_voxels=[80,80,128]", "sampling.batch_size=2")),
    },
    "unet3d": {
        "spacing-1.5": Row(("grid.spacing_mm=1.5",)),
        "spacing-1.25": Row(("grid.spacing_mm=1.25",)),
        "dice-ce": Row(("loss.name=dice_ce",)),
        "batch-4": Row(("sampling.batch_size=4",)),
        "large-patches": Row(("sampling.patch_voxels=[128,128,128]", "sampling.batch_size=4")),
        "slow-average": Row(("optim.ema_decay=0.995",)),
    },
}
"""What only makes sense beside one of them."""


def rows_of(config: str) -> dict[str, Row]:
    """Every row of a config by name."""
    return {**ROWS, **OF_CONFIG.get(config, {})}


def row_of(name: str, config: str) -> Row:
    """The row of that name, or several joined by ``+``; exits where there is none.

    Example:
        >>> row_of("spacing-1.5+no-margin", "unet3d").settings
        ('grid.spacing_mm=1.5', 'sampling.margin_voxels=0')
    """
    rows = rows_of(config)
    unknown = [part for part in name.split(AND) if part not in rows]
    if unknown:
        sys.exit(f"{config} has no row {' or '.join(unknown)}; known: {', '.join(rows)}")
    return reduce(Row.__add__, (rows[part] for part in name.split(AND)))


def step_of(row: Row, config: str, *, augmented: bool) -> tuple[str, tuple[str, ...]]:
    """What decides how long a step of a row takes: its config, and settings of network, loss, patches, augmentation."""
    long = ["network.", "loss.", "sampling.batch_size", "sampling.patch_voxels", *(["augment."] if augmented else [])]
    return row.config or config, tuple(setting for setting in row.settings if setting.startswith(tuple(long)))
