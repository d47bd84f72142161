"""How dense bone is at each depth below its surface: outline, shell and spongy core, different in each person."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from verse3d.phantoms.render import Density, Drawn
from verse3d.phantoms.shapes import Array

_RIM_HU = 50.0
"""Of what is labelled as bone and is none."""
_TEXTURE_MM = ((2.5, 0.16), (6.0, 0.08), (16.0, 0.10))
"""Grain of spongy bone and how strong it is, as a share of the density."""


def draw_density(rng: np.random.Generator) -> Density:
    """One person's bone, from porous to young (Radiology 2019;291:360)."""
    return Density(
        core_hu=float(rng.uniform(50, 230)),
        shell_hu=float(rng.uniform(500, 900)),
        shell_mm=float(rng.uniform(0.7, 1.1)),
        joint_mm=float(rng.uniform(0.3, 1.0)),
    )


@dataclass(frozen=True, eq=False)
class BoneTissue:
    """How dense one person's bone is at each depth.

    Attributes:
        density: of its core and shell.
        grain: noise that the core is multiplied with, and patches of the shell, cubes of samples.
        level_hu: by which each vertebra differs.
        process_hu: by which the core of the arch is denser than that of the body.
        process_shell: how much thicker its shell is, in shells.
        inset_mm: how deep in the label bone begins: people outline bone generously.
    """

    density: Density
    grain: Array
    patches: Array
    level_hu: dict[str, float]
    process_hu: float
    process_shell: float
    inset_mm: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, density: Density, names: Sequence[str]) -> "BoneTissue":
        """One person's: ``names`` are those of all bones that will be drawn."""
        strength = float(rng.uniform(0.5, 2.0))
        grain = sum((_noise(rng, grain_mm, strength * share) for grain_mm, share in _TEXTURE_MM), np.float32(1.0))
        return cls(
            density=density,
            grain=np.maximum(grain, 0.1),
            patches=np.clip(_noise(rng, 8.0, 0.3) + 0.8, 0.2, 1.3),
            level_hu={name: float(rng.normal(0.0, 12.0)) for name in names},
            process_hu=float(rng.uniform(-10.0, 110.0)),
            process_shell=float(rng.uniform(0.4, 2.2)),
            inset_mm=float(rng.uniform(0.0, 0.7)),
        )

    def hu(self, item: Drawn, height: Array) -> Array:
        """HU at each sample of a bone; ``height`` is -1 and 1 at the endplates of its body."""
        process = np.clip(item.body * 0.3, 0.0, 1.0)
        level_hu = self.density.core_hu + self.level_hu[item.name]
        core = level_hu * _looked_up(self.grain, item.block.shape) + process * self.process_hu
        # Endplates have a thicker shell than the waist of a body, and laminae are almost nothing but shell.
        endplate = np.clip((np.abs(height) - 0.6) * 4.0, 0.0, 1.0)
        thick = self.density.shell_mm * (0.8 + 0.4 * endplate + process * self.process_shell)
        #   label   |<-inset->|<- thick ->|
        #           | soft    | shell     | core ...        depth ->
        depth = -item.bone - self.inset_mm
        shell = np.clip(0.5 + (thick - depth) * 0.9, 0.0, 1.0) * _looked_up(self.patches, item.block.shape)
        dense = core + shell * (self.density.shell_hu - core)
        outline = np.clip(0.5 + depth * 1.5, 0.0, 1.0) if self.inset_mm > 0 else np.float32(1.0)
        return np.asarray(_RIM_HU + outline * (dense - _RIM_HU), np.float32)


def _noise(rng: np.random.Generator, grain_mm: float, share: float) -> Array:
    """A cube of smooth noise with that standard deviation, for blocks with samples of about 1 mm."""
    rough = gaussian_filter(rng.standard_normal((48, 48, 48), dtype=np.float32), max(grain_mm / 2.5, 0.6), mode="wrap")
    return np.asarray(rough * (share / float(rough.std())))


def _looked_up(field: Array, shape: tuple[int, int, int]) -> Array:
    """The field, repeated to a block's shape."""
    index = [np.arange(size) % length for size, length in zip(shape, field.shape, strict=True)]
    return field[np.ix_(*index)]
