"""Masks that are named like scans: seen by their first labelled voxels, without reading the whole file."""

from pathlib import Path

import numpy as np

from verse3d.core.errors import DataError
from verse3d.core.nifti_bytes import READ_ERRORS, open_voxels
from verse3d.core.volume import read_geometry

_CHUNK_BYTES = 2**22
_HIGHEST_LABEL, _MOST_LABELS, _LEAST_BACKGROUND = 255, 60, 0.5
_UNSCALED = ((None, None), (1.0, 0.0))


def label_range(path: Path) -> tuple[int, int] | None:
    """The lowest and the highest value of the first chunk that is not all 0, if it looks like a mask's; else None.

    A mask begins with whole numbers from 0 on, few of them different and most of them 0. A CT begins with air at
    -1000 HU (or about 0 or 24 in other scales), but never without noise and tissue. Holds 4 MB.
    """
    try:
        _, header = read_geometry(path)
        dtype = header.get_data_dtype()
        if dtype.kind not in "iu" or header.get_slope_inter() not in _UNSCALED:
            return None
        with open_voxels(path) as handle:
            handle.seek(int(header.get_data_offset()))
            size = _CHUNK_BYTES // dtype.itemsize * dtype.itemsize
            while (content := handle.read(size)) and not any(content):
                pass
    except (DataError, *READ_ERRORS):
        return None
    values = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)
    if not values.size or values.min() < 0 or values.max() > _HIGHEST_LABEL:
        return None
    looks_so = np.unique(values).size <= _MOST_LABELS and np.mean(values == 0) > _LEAST_BACKGROUND
    return (int(values.min()), int(values.max())) if looks_so else None
