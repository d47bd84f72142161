"""Preparing one case: from its files to an entry of the store.

At most one of scan and mask is held, in the type of its file, and of the network grid one slab of 64 planes and what is
already compressed: 1.4 GB for a scan of 512 x 512 x 1500 in 16 bit.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from verse3d.core.axismaps import Box, axis_maps
from verse3d.core.config import GridConfig
from verse3d.core.errors import DataError, OutputError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import present_ids, require_known_ids
from verse3d.core.resample import resample_finished, resample_vote
from verse3d.core.volume import Volume, read_geometry, read_image
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask, require_same_geometry
from verse3d.data.samples.arrays import CHUNK, ArrayRecord, ArrayWriter
from verse3d.data.samples.blocks import LabelBlocks, counted
from verse3d.data.samples.entry import ENTRY_FILE, UNDECIDED, Entry
from verse3d.data.samples.grid import COARSE_MM, fitting_geometry, network_geometry, windowing
from verse3d.data.samples.keys import entry_name
from verse3d.data.samples.store import SampleStore
from verse3d.data.schemes import scheme_of

_POLL_SECONDS = 0.1
_BYTES_EACH = 3
"""Float16 and uint8."""
Beat = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """One case to prepare.

    Attributes:
        store: where to.
        grid: of the network.
        case: with scan and mask.
        name: of its entry in the store.
        problem: why it cannot be prepared, if that is known from the start.
    """

    store: SampleStore
    grid: GridConfig
    case: Case
    name: str
    problem: str = ""

    @classmethod
    def of(cls, store: SampleStore, grid: GridConfig, case: Case) -> Self:
        """The job for a case as its files are now."""
        try:
            return cls(store, grid, case, entry_name(case, grid))
        except DataError as error:
            return cls(store, grid, case, "", str(error))

    @property
    def is_done(self) -> bool:
        """Whether the entry is there."""
        return not self.problem and self.store.entry_folder(self.name).is_dir()

    @property
    def failure(self) -> str:
        """Why the case cannot be prepared; "" as far as that is known."""
        return self.problem or self.store.failure(self.name)


def ensure_prepared(job: Job) -> None:
    """Prepare a case unless it is prepared; if another process is at it, wait until that has finished.

    Raises:
        DataError: the case cannot be prepared: a file is missing, damaged, has changed or holds unknown labels.
        GeometryError: scan and mask lie on different grids.
        OutputError: the store cannot be written.
    """
    store = job.store
    # Who wants a case prepares it, and whoever comes second waits:
    #
    #     A   claim ---- prepare ---- rename ---- read
    #     B        claim refused . . . . . . . is_done ---- read
    #
    # If A is killed its claim is given up, and B prepares.
    while not job.is_done:
        if reason := job.failure:
            raise DataError(reason)
        with store.claim(job.name) as ours:
            # Another process may have finished between the question and the claim.
            if ours and not job.is_done:
                _prepare(job)
        if not ours:
            time.sleep(_POLL_SECONDS)


def _prepare(job: Job) -> None:
    try:
        with job.store.new_entry(job.name) as folder:
            write_entry(job.case, job.grid, folder, beat=lambda: job.store.renew_claim(job.name))
            # The name says size and time of the files: another name now, and they were written to meanwhile.
            if entry_name(job.case, job.grid) != job.name:
                raise DataError(
                    f"the files of case {job.case.case} have changed since the preparation began",
                    hint="wait until they are complete, then start again",
                )
    except OutputError:
        raise  # the fault of the store, not of the case
    except DataError as error:
        job.store.note_failure(job.name, str(error))
        raise


def write_entry(case: Case, grid: GridConfig, folder: Path, *, beat: Beat) -> Entry:
    """Fill an empty folder with a case on the network grid.

    Args:
        case: with scan and mask.
        grid: of the network.
        folder: for the files of the entry.
        beat: called every few seconds.

    Raises:
        DataError, GeometryError: the case cannot be used.
        OSError: a file cannot be written.
    """
    source, _ = read_geometry(case.image_path())
    # It is written in slabs, but whoever validates on it, or predicts, holds it whole.
    target = fitting_geometry(source, grid, _BYTES_EACH)
    coarse = network_geometry(source, grid.model_copy(update={"spacing_mm": (COARSE_MM,) * 3}))
    place = _Place(folder, source, {"": target, "-4mm": coarse}, beat)
    mask = read_mask(case)
    require_same_geometry(source, mask.geometry, case.image_path(), mask.path)
    require_known_ids(present_ids(mask.array))
    scheme = scheme_of(mask)
    labels, blocks = _write_labels(mask, place)  # the mask first: it is what is wrong, where something is
    del mask  # one of scan and mask is held at a time
    images = _write_images(case, grid, place)
    binary = scheme.reason if scheme.is_binary else ""
    entry = Entry(case.case, grid, source, target, coarse, {**images, **labels}, blocks, binary)
    (folder / ENTRY_FILE).write_text(entry.to_text(), encoding="utf-8")
    return entry


@dataclass(frozen=True)
class _Place:
    """Where the arrays of a case go, by the grid they are on."""

    folder: Path
    source: Geometry
    targets: dict[str, Geometry]
    beat: Beat


def _write_images(case: Case, grid: GridConfig, place: _Place) -> dict[str, ArrayRecord]:
    scan = read_image(case.image_path())
    if scan.geometry != place.source:
        raise DataError(f"{case.image} has changed while it was read")
    written = {}
    for suffix, target in place.targets.items():
        # Slab by slab: nothing but the compressed part of the network grid is held.
        writer = ArrayWriter(target.shape, np.float16)
        for part in slabs(place.source, target):
            place.beat()
            values = resample_finished(scan.array, place.source, target, np.float16, windowing(grid), part=part)
            writer.put(part, values)
        written[f"image{suffix}"] = writer.write(place.folder / f"image{suffix}.b2nd")
    return written


def _write_labels(mask: Volume, place: _Place) -> tuple[dict[str, ArrayRecord], LabelBlocks]:
    ids = mask.array.astype(np.uint8, copy=False)
    written, blocks = {}, []
    for suffix, target in place.targets.items():
        writer, counts = ArrayWriter(target.shape, np.uint8), []
        for part in slabs(place.source, target):
            place.beat()
            voxels = resample_vote(ids, place.source, target, part=part, undecided=UNDECIDED)
            writer.put(part, voxels)
            i, j, k = (span.start for span in part)
            counts.append(counted(voxels, (i, j, k), target.shape))
        written[f"labels{suffix}"] = writer.write(place.folder / f"labels{suffix}.b2nd")
        blocks.append(LabelBlocks.joined(target.shape, counts))
    return written, blocks[0]


def slabs(source: Geometry, target: Geometry) -> Iterator[Box]:
    """Boxes of 64 planes that make up the target, across the slowest axis of a NIfTI file.

    So each plane of the source is needed by one slab, or by two.
    """
    # The axis of the target along which the file's planes are stacked.
    axis = axis_maps(source, target)[0].index(2)
    length = target.shape[axis]
    for start in range(0, length, CHUNK):
        box = [slice(0, size) for size in target.shape]
        box[axis] = slice(start, min(start + CHUNK, length))
        yield tuple(box)
