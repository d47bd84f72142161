"""Random windows of slices, where a pixel has a size in mm: patches of thickness one, with 8-bit grey values."""

import numpy as np

from verse3d.core.augmenting import AugmentConfig
from verse3d.core.axes import LEFT_RIGHT
from verse3d.core.config import SlicesConfig
from verse3d.data.samples.cut import Box, box_around, patch_corner
from verse3d.data.samples.draws import ChangeDraws
from verse3d.data.samples.slices import cut_slice, mirrored_slice, slice_axis
from verse3d.data.samples.source import PatchSource


class SliceWindowCut:
    """Windows of random slices of a case, with their neighbours, as 8-bit pictures.

    A window lies around a random voxel, pushed inside the slice. Where the slice is smaller it lies in the middle of
    the window, and around it is 0 (air, background). The box of a window that is turned, scaled or bent reaches as far
    as the change does.

    Args:
        slices: plane, pixels and neighbours.
        augment: random changes; left and right are mirrored with ``mirror_left_right``.
        foreground_fraction: of the windows so many lie around a labelled voxel, the others around an unlabelled one.

    Raises:
        ValueError: the pixels of the slices have no size.
    """

    def __init__(self, slices: SlicesConfig, augment: AugmentConfig, foreground_fraction: float) -> None:
        if slices.spacing_mm is None:
            raise ValueError("windows are cut of slices whose pixels have a size")
        self.slices = slices
        self.mirror_left_right = augment.mirror_left_right
        self.foreground_fraction = foreground_fraction
        self.changes = ChangeDraws(augment, (slices.spacing_mm, slices.spacing_mm), mirrors=False)

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of a window."""
        return self.slices.size_pixels

    def __call__(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """The box of one window: image (2 x neighbours + 1, rows, columns) uint8, label (1, rows, columns) uint8."""
        axis = slice_axis(self.slices.plane, source.source)
        centre = source.draw_centre(self.foreground_fraction, random)
        mirrored = random.random_sample() < self.mirror_left_right
        changes = self.changes.draw(random)
        row_column = [other for other in (2, 1, 0) if other != axis]
        whole, window = np.array(source.geometry.shape)[row_column], np.array(self.size)
        corner = patch_corner(centre[row_column], window, whole)
        # Rows and columns run against the volume's axes, whose last voxel is in row 0: counted from the other end.
        start, size, middle = box_around(whole - window - corner, window, changes)
        #            row 0 = last voxel
        #     S ^    +--------------+         first voxel of the box along S  =  length - (start + size) in rows
        #       |    |   [  box  ]  |
        #       |    +--------------+
        ends = whole - start
        rows, columns = (slice(int(end - along), int(end)) for end, along in zip(ends, size, strict=True))
        pixels, part, beside = (int(size[0]), int(size[1])), (columns, rows), self.slices.neighbours
        image, label = cut_slice(source, axis, int(centre[axis]), neighbours=beside, size=pixels, part=part)
        if mirrored:
            image, label = mirrored_slice(image, label, axis)
            if axis != LEFT_RIGHT:  # then the columns run from left to right, and the middle of the box changes sides
                middle = (middle[0], size[1] - 1 - middle[1])
        return Box(image, label, middle, changes)

    def plan(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """The box itself: a slice is turned and rounded when it is read, so nothing could be read to its place."""
        return self(source, random)
