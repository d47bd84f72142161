"""What patches and slices are cut from: a case on the network grid, in memory or on disk."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry, Shape


class PatchSource(Protocol):
    """A case on the network grid that can be read in pieces.

    ``PreparedCase`` holds all of it in memory, ``StoredCase`` reads from a prepared store. Both give the same voxels
    and, from the same random state, the same centres.
    """

    @property
    def case(self) -> str:
        """Its name."""

    @property
    def geometry(self) -> Geometry:
        """The network grid."""

    @property
    def source(self) -> Geometry:
        """The grid of the file."""

    def read(self, start: Shape, size: Shape) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """The voxels ``start`` ... ``start + size`` of the network grid, in arrays that the caller may change.

        ``start`` may be negative, and ``start + size`` may lie beyond the end: what is outside is air and background.

        Args:
            start: first voxel (i, j, k).
            size: voxels along i, j, k; each at least 1.

        Returns:
            Grey values 0 ... 1 (the lowest of the window to the highest), and network ids, both (I, J, K).

        Raises:
            DataError: the case cannot be read any more.
        """

    def read_into(self, start: Shape, image: NDArray[np.float16], label: NDArray[np.uint8]) -> None:
        """``read`` into arrays that are there already, whose shape says how much.

        Args:
            start: first voxel (i, j, k).
            image, label: (I, J, K), contiguous.

        Raises:
            DataError: the case cannot be read any more.
        """

    def draw_centre(self, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
        """A voxel (i, j, k), inside the volume: with that probability any labelled one, else any unlabelled one.

        If the case has none of the wanted kind, one of the other kind. Takes exactly three numbers from ``random``.
        """


class PatchSources(Protocol):
    """Cases to cut from, by number. Cheap to send to another process: a case is opened when it is asked for.

    A ``list[PreparedCase]`` is one. In a prepared store, a case that is not prepared yet is waited for, and in place
    of a case that cannot be prepared comes the next one that can: which patch is drawn never depends on how far the
    preparation is.
    """

    def __len__(self) -> int:
        """How many cases there are."""

    def __getitem__(self, number: int, /) -> PatchSource:
        """A case, opened.

        Raises:
            IndexError: there is no such number.
            DataError: no case at all can be prepared.
            OutputError: the store cannot be written.
        """
