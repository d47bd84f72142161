"""A synthetic spine CT: vertebrae from C1 to L6 in a body, scanned at random, written the way VerSe is.

It is made for tests, tutorials and smoke training where no patient's scan may go. It is drawn from smooth mathematical
shapes and typical sizes, not from any scan.

Example:
    >>> from verse3d.phantoms import make_case
    >>> case = make_case(seed=1)
    >>> case.image_hu.shape == case.mask.shape == case.geometry.shape
    True
"""

from verse3d.phantoms.case import PhantomCase, make_case
from verse3d.phantoms.levels import Anomaly
from verse3d.phantoms.writer import write_phantom

__all__ = ["Anomaly", "PhantomCase", "make_case", "write_phantom"]
