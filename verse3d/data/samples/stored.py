"""Cases of a prepared store, read in pieces: what training cuts its patches from."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError, OutputError
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.labels import training_scheme
from verse3d.core.logs import logger
from verse3d.data.cases import Case
from verse3d.data.samples.arrays import StoredArray
from verse3d.data.samples.blocks import CentreDraw, DamagedEntryError
from verse3d.data.samples.cut_ends import PackedMask, ignore, unknown_bone
from verse3d.data.samples.entry import ARRAYS, Entry, coarse_levels, network_table, open_array, unchecked
from verse3d.data.samples.ignored import NOTHING, Ignored, read_without_borders
from verse3d.data.samples.measures import tissue_measures
from verse3d.data.samples.prepare import Job, ensure_prepared

_log = logger(__name__)
_Read = TypeVar("_Read")
_OPEN_CASES = 32
_MOST_REPAIRS = 2


@dataclass(frozen=True, eq=False)
class OpenEntry:
    """An entry whose files are open.

    Attributes:
        entry: what is known of it.
        arrays: by name.
        centres: draws them.
        as_stored: whether the stored labels are network ids already.
        unknown: where at 4 mm bone may be a vertebra that the scan cuts; None if that is background like all else.
    """

    entry: Entry
    arrays: dict[str, StoredArray]
    centres: CentreDraw
    as_stored: bool
    unknown: NDArray[np.bool_] | None = None


class StoredCase:
    """A case of the store as network ids of one label scheme; a ``PatchSource``.

    An entry that turns out to be damaged is prepared again, and read again.

    Args:
        job: how the case is prepared.
        scheme: name of that of the network ids.
        ignored: which network ids teach nothing.
    """

    def __init__(self, job: Job, scheme: str, ignored: Ignored = NOTHING) -> None:
        self._job = job
        self._scheme = scheme
        self._ignored = ignored
        self._table = network_table(training_scheme(scheme))
        self._checked: dict[str, NDArray[np.bool_]] = {}
        self._opened: OpenEntry | None = None
        self._tissue: dict[str, float] | None = None
        self._unknown: PackedMask | None = None

    @property
    def case(self) -> str:
        """Its name."""
        return self._job.case.case

    @property
    def files(self) -> Case:
        """The case that was prepared."""
        return self._job.case

    @property
    def failure(self) -> str:
        """Why the case cannot be prepared; "" as far as that is known."""
        return self._job.failure

    @property
    def geometry(self) -> Geometry:
        """The network grid."""
        return self._reading(lambda opened: opened.entry.geometry)

    @property
    def source(self) -> Geometry:
        """The grid of the file."""
        return self._reading(lambda opened: opened.entry.source)

    @property
    def coarse(self) -> Geometry:
        """The grid of the 4 mm copy."""
        return self._reading(lambda opened: opened.entry.coarse)

    def read(self, start: Shape, size: Shape) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """The voxels ``start`` ... ``start + size``: grey values 0 ... 1 and network ids; outside air and background.

        Raises:
            DataError: the entry is damaged and cannot be prepared again.
        """
        image, label = np.empty(size, np.float16), np.empty(size, np.uint8)
        self.read_into(start, image, label)
        return image, label

    def read_into(self, start: Shape, image: NDArray[np.float16], label: NDArray[np.uint8]) -> None:
        """``read`` into contiguous arrays (I, J, K) that are there already.

        Raises:
            DataError: the entry is damaged and cannot be prepared again.
        """

        def read(opened: OpenEntry) -> None:
            opened.arrays["image"].read_into(start, image)
            labels = partial(self._read_labels, opened)
            if self._ignored.automatic_borders and self.files.automatic:
                labels = partial(read_without_borders, labels)
            labels(start, label)
            if opened.unknown is not None:
                grid = opened.entry.geometry
                ignore(label, start, opened.unknown, grid.shape, grid.spacing_mm)

        self._reading(read)

    def read_coarse(self) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """The 4 mm copy, all of it: grey values 0 ... 1 and network ids.

        Raises:
            DataError: the entry is damaged and cannot be prepared again.
        """

        def read(opened: OpenEntry) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
            start, size = (0, 0, 0), opened.entry.coarse.shape
            stored = opened.arrays["labels-4mm"].read_padded(start, size)
            return opened.arrays["image-4mm"].read_padded(start, size), self._network_ids(opened, stored)

        return self._reading(read)

    def read_coarse_levels(self) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """The 4 mm copy, all of it: grey values 0 ... 1 and VerSe ids, whatever the label scheme of this case is.

        What is some vertebra but none by itself is ``UNDECIDED``; in a binary mask that is every vertebra.

        Raises:
            DataError: the entry is damaged and cannot be prepared again.
        """

        return self._reading(lambda opened: coarse_levels(opened.entry, opened.arrays))

    def tissue_hu(self) -> dict[str, float] | None:
        """Measures of the grey values (see ``tissue_measures``) if the case is prepared, else None."""
        if self._tissue is None and self._job.store.entry_folder(self._job.name).is_dir():
            was_open = self._opened is not None
            with contextlib.suppress(DataError):  # whoever needs the case will hear of it
                self._tissue = tissue_measures(self.read_coarse()[0], self._job.grid.window_hu)
            if not was_open:  # every case is asked, and all of them open would be too many
                self.close()
        return self._tissue

    def draw_centre(self, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
        """A voxel (i, j, k): with that probability any labelled one, else any unlabelled one."""
        # Drawn before anything is read, so that a repair in between changes no number that follows.
        draws = random.random_sample(3).tolist()
        return self._reading(
            lambda opened: opened.centres.centre(foreground_fraction, draws, opened.arrays["labels"].read_padded)
        )

    def open(self) -> None:
        """Prepare the case if it is not prepared, and open its files.

        Raises:
            DataError: the case cannot be prepared.
            OutputError: the store cannot be written.
        """
        self._reading(lambda _: None)

    def close(self) -> None:
        """Forget the files; they are opened again when needed."""
        self._opened = None

    def _reading(self, read: Callable[[OpenEntry], _Read]) -> _Read:
        # A damaged entry is made again from its files; a disk that damages it each time ends this.
        for _ in range(_MOST_REPAIRS):
            try:
                return read(self._open())
            except DamagedEntryError as error:
                _log.warning("%s; it is prepared again", error.message)
                self._opened = None
                self._checked = {}
                self._unknown = None
                self._job.store.remove_entry(self._job.name)
        return read(self._open())

    def _open(self) -> OpenEntry:
        if self._opened is None:
            ensure_prepared(self._job)
            store, name = self._job.store, self._job.name
            entry = store.entry(name)
            if entry is None:
                raise DamagedEntryError(f"{store.entry_folder(name)} was removed while it was opened")
            if entry.binary and self._scheme != "binary":
                raise DataError(
                    f"the mask of {self.case} is binary ({entry.binary}): 1 is any vertebra there, not C1, but "
                    f"labels.scheme {self._scheme} needs to know which one",
                    hint="use the scheme binary, or a mask with VerSe's ids",
                )
            arrays = {}
            for array in ARRAYS:
                checked = self._checked.setdefault(array, unchecked(entry.arrays[array]))
                arrays[array] = open_array(store.entry_folder(name), entry, array, checked)
            # Binary schemes and T13 are renumbered while reading, all else is stored as the network counts.
            present = np.unique(entry.blocks.code)
            as_stored = bool((self._table[present] == present).all())
            if self._ignored.cut and self._unknown is None:
                self._unknown = PackedMask.of(unknown_bone(*coarse_levels(entry, arrays), entry.grid.window_hu))
            unknown = None if self._unknown is None else self._unknown.voxels()
            self._opened = OpenEntry(entry, arrays, CentreDraw(entry.blocks, self._table > 0), as_stored, unknown)
        return self._opened

    def _read_labels(self, opened: OpenEntry, start: Shape, label: NDArray[np.uint8]) -> None:
        # Spines are narrow: only the part of the box is read in which there are labels at all.
        #
        #   +-----------+
        #   |   +---+   |      the box, and the blocks of it that hold labels
        #   |   |###|   |
        #   +---+---+---+
        i, j, k = label.shape
        label[...] = 0
        found = opened.entry.blocks.labelled_part(start, (i, j, k))
        if found is None:
            return
        first, size = found
        stored = opened.arrays["labels"].read_padded(first, size)
        part = tuple(slice(a - b, a - b + length) for a, b, length in zip(first, start, size, strict=True))
        label[part] = self._network_ids(opened, stored)

    def _network_ids(self, opened: OpenEntry, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if opened.as_stored:
            return stored
        # bytes.translate is the quickest look-up of single bytes: an index array would be widened to 64 bit first.
        ids = np.frombuffer(bytearray(stored.tobytes().translate(self._table.tobytes())), np.uint8)
        return ids.reshape(stored.shape)


class StoredCases:
    """The cases of a training, by number; ``PatchSources``. A few are open at a time, however many there are.

    In place of a case that cannot be prepared comes the next one that can, so that the same number always means the
    same case, whoever asks and whenever.

    Args:
        jobs: how each case is prepared.
        scheme: name of that of the network ids.
        ignored: as of ``StoredCase``.
    """

    def __init__(self, jobs: Sequence[Job], scheme: str, ignored: Ignored = NOTHING) -> None:
        self._cases = [StoredCase(job, scheme, ignored) for job in jobs]
        self._open: OrderedDict[int, None] = OrderedDict()  # the one used last is at the end

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, number: int) -> StoredCase:
        if not 0 <= number < len(self._cases):
            raise IndexError(number)
        for step in range(len(self._cases)):
            candidate = (number + step) % len(self._cases)
            try:
                self._cases[candidate].open()
            except OutputError:
                raise
            except DataError as error:
                _log.debug("%s is left out: %s", self._cases[candidate].case, error)
                continue
            # The cases used last stay open; of too many the one that has waited longest is closed.
            self._open[candidate] = None
            self._open.move_to_end(candidate)
            if len(self._open) > _OPEN_CASES:
                oldest, _ = self._open.popitem(last=False)
                self._cases[oldest].close()
            return self._cases[candidate]
        raise DataError("no case can be prepared", hint="verse3d check says what is wrong with them")

    def each(self) -> Sequence[StoredCase]:
        """Every case, those included that cannot be prepared; none is opened."""
        return tuple(self._cases)

    def __getstate__(self) -> dict[str, Any]:
        for number in self._open:
            self._cases[number].close()
        return {"_cases": self._cases, "_open": OrderedDict()}
