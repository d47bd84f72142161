"""What a conversion means to write, and what it tells about every case afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verse3d.data.cases import Case, Split
from verse3d.data.convert.folder import OutputFolder

How = Literal["link", "copy", "compressed", "repaired", "rewritten", "computed"]


@dataclass(frozen=True)
class FileRecord:
    """One file of a converted case.

    Attributes:
        path: below the output folder, with slashes.
        source: what it was made from, absolute path.
        how: "link" or "copy"; "compressed" (the same bytes in gzip); "repaired" (the same voxels under a corrected
            header); "rewritten" (a mask with other ids); "computed" (centroids found in the mask).
        moved_mm: how far the repair moved the corner that it moved most.
        note: why it is not a plain link or copy.
    """

    path: str
    source: str
    how: How
    moved_mm: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class CasePlan:
    """A case, its name in the output, and the files that it may get there (paths below the output folder)."""

    case: Case
    name: str
    image: str | None = None
    mask: str | None = None
    centroids: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(path for path in (self.image, self.mask, self.centroids) if path is not None)


@dataclass(frozen=True)
class CaseRecord:
    """What became of a case.

    Attributes:
        case: its name in the index.
        name: its name in the output.
        subject: whom it belongs to.
        split: from the index.
        fold: from the index.
        status: "written", or "left out" (then nothing of it is there).
        files: what was written.
        reason: why it was left out.
        split_origin: from the index.
        automatic: from the index.
    """

    case: str
    name: str
    subject: str
    split: Split | None
    fold: int | None
    status: Literal["written", "left out"]
    files: tuple[FileRecord, ...] = ()
    reason: str = ""
    split_origin: str = ""
    automatic: bool = False


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        folder: where everything is.
        cases: a record per case of the index, in its order.
        notes: what to know about the whole.
    """

    folder: Path
    cases: tuple[CaseRecord, ...]
    notes: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[CaseRecord, ...]:
        """The cases that are not there."""
        return tuple(record for record in self.cases if record.status == "left out")


@dataclass(frozen=True)
class Layout:
    """A layout to write, as a value.

    Attributes:
        name: "nnunet" or "verse".
        folder: of the data set.
        options: what was asked for, for the manifest.
        plans: one per case.
        extra: names of the files that describe the whole.
        write_case: writes the files of a case; raises DataError before it writes anything if the case is bad.
        finish: writes the files in ``extra`` and returns notes; gets the folder and the record of every case.
    """

    name: str
    folder: Path
    options: dict[str, str | int]
    plans: tuple[CasePlan, ...]
    extra: tuple[str, ...]
    write_case: Callable[[CasePlan, OutputFolder], tuple[FileRecord, ...]]
    finish: Callable[[Path, Sequence[CaseRecord]], tuple[str, ...]]
