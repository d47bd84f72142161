"""What tests of the picture of a scan share."""

from pathlib import Path

import nibabel as nib
import numpy as np

from tests import scans
from tests.scans import PIR, orientation, turned
from verse3d.core.preview import read_preview
from verse3d.report.cuts import label_places
from verse3d.report.look import look_figure

REAL = Path(__file__).parents[2] / "../shared/data"


GRIDS = {
    "PIR": PIR,
    "oblique LAS": turned(orientation((0, 1, 2), (-1, 1, 1), (0.8, 0.9, 3.0), (41, 37, 23))),
    "oblique SPL": turned(orientation((2, 1, 0), (1, -1, -1), (0.7, 2.4, 1.1), (63, 19, 34)), (-15, 9, 6)),
    "ASR": orientation((1, 2, 0), (1, 1, 1), (1.0, 1.0, 4.0), (40, 70, 12)),
}


PLANE_AXES = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}


def column(geometry, ids=(18, 19, 20, 21)):
    """A mask with one block per id, from head to tail, near the patient's right side; and a scan of it."""
    grid = geometry.reoriented("RAS")
    mask = np.zeros(grid.shape, np.uint8)
    i, j, k = grid.shape
    tall = k // len(ids)
    for number, label in enumerate(ids):
        top = k - number * tall
        mask[i // 2 : i - 1, j // 3 : 2 * j // 3, max(0, top - tall) : max(1, top - tall) + max(1, tall - 1)] = label
    change = nib.orientations.ornt_transform(nib.io_orientation(grid.affine), nib.io_orientation(geometry.affine))
    mask = np.ascontiguousarray(nib.apply_orientation(mask, change))
    hu = np.random.default_rng(0).normal(-100, 60, geometry.shape) + 800 * (mask > 0)
    return hu.astype(np.int16), mask


def preview(tmp_path, array, geometry, name="scan.nii"):
    return read_preview(scans.write_nifti(tmp_path / name, array, geometry.affine))


def drawn(tmp_path, geometry, **options):
    hu, mask = column(geometry)
    found = look_figure(preview(tmp_path, hu, geometry), mask=mask, title="case", **options)
    found.figure.canvas.draw()
    return found


def texts(axes, start):
    return {text.get_gid().removeprefix(start): text for text in axes.texts if (text.get_gid() or "").startswith(start)}


def on_sheet(figure, artist):
    return artist.get_window_extent(figure.canvas.get_renderer())


def places_of(grid):
    return label_places(column(grid)[1], grid)


def whole_text(figure):
    return "\n".join(text.get_text() for text in figure.texts)
