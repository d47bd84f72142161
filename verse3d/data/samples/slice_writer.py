"""Writing the slices of cases as PNG files, whole cases or nothing, several at a time."""

import glob
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.config import Config, load_config, parse_config
from verse3d.core.errors import DataError, Verse3dError
from verse3d.core.files import make_folder, output_error, write_json, write_text
from verse3d.core.labels import label_scheme
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.paths import TEMPORARY_PREFIX, path_below
from verse3d.core.readers import Many, Record, read_record
from verse3d.core.wording import how_many
from verse3d.core.worker_pool import Failure, each
from verse3d.data.cases import Case
from verse3d.data.samples.slice_folder import CASE_FILE, CONFIG_FILE, MANIFEST_FILE, SliceRow, mask_pixels
from verse3d.data.samples.slices import grey_slice, label_slice, slice_axis, turned
from verse3d.data.samples.transforms import PreparedCase, prepare_case
from verse3d.version import __version__

_SECTIONS = ("labels", "grid", "slices")
"""The sections of the config that decide what a slice looks like."""

_log = logger(__name__)


@dataclass(frozen=True)
class SliceRecord:
    """What happened to one case.

    Attributes:
        case: its name.
        split: which folder it is in.
        status: "written", "kept" (it was there already) or "failed".
        slices: how many there are.
        error: why it failed.
    """

    case: str
    split: str
    status: Literal["written", "kept", "failed"]
    slices: int = 0
    error: str = ""


@dataclass(frozen=True)
class SliceReport:
    """All records of one call, in the order of the cases."""

    folder: Path
    records: tuple[SliceRecord, ...]

    @property
    def failures(self) -> tuple[SliceRecord, ...]:
        """The cases that have no slices now."""
        return tuple(record for record in self.records if record.status == "failed")


@dataclass(frozen=True)
class _Job:
    """One case to write. Goes to another process, so it holds plain values."""

    case: Case
    out: Path
    config: dict[str, Any]
    only_labelled: bool
    overwrite: bool

    @property
    def folder(self) -> Path:
        """Where its slices go; DataError if its name is none for a folder, or the folder is a link that leads out."""
        return path_below(self.out, str(self.case.split), self.case.case, CASE_FILE).parent

    def made_from(self) -> dict[str, Any]:
        """What decides the slices: a case that is there is kept only if all of this is the same."""
        files = [self.case.image_path(), self.case.mask_path()]
        return {
            "files": [str(path.resolve()) for path in files],
            "stamps": [[path.stat().st_size, path.stat().st_mtime_ns] for path in files],
            "relabel": [list(pair) for pair in self.case.relabel],
            "only_labelled": self.only_labelled,
            # None is left out: what was cut before the setting was known is still the same.
            "settings": {
                name: {key: value for key, value in self.config[name].items() if value is not None}
                for name in _SECTIONS
            },
        }


def write_slices(
    cases: Sequence[Case],
    config: Config,
    out: Path,
    *,
    only_labelled: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SliceReport:
    """Write the slices of all cases (each with scan, mask and split) as the config says. A bad case is listed.

    A case that is there already, cut from the same files in the same way, is kept. One process holds one prepared case.

    Args:
        cases: what to cut.
        config: its ``grid``, ``labels`` and ``slices`` count.
        out: the folder; see ``slicefolder`` for its layout.
        only_labelled: leave out slices without a label.
        workers: cases that are cut at the same time, each in a process of its own; 1 for this process alone.
        overwrite: replace slices that were made otherwise.
        progress: told about every case.

    Raises:
        DataError: ``out`` holds slices of another kind, or files that are no slices.
        OutputError: ``out`` cannot be written to.
    """
    _claim(out, config, overwrite=overwrite)
    jobs = [_Job(case, out, config.to_dict(), only_labelled, overwrite) for case in cases]
    records: dict[str, SliceRecord] = {}
    progress("cases", 0, len(jobs))
    for record in _run(jobs, min(workers, len(jobs))):
        records[record.case] = record
        if record.status == "failed":
            _log.error("%s: %s", record.case, record.error)
        else:
            slices = how_many(record.slices, "slice")
            _log.info("%s: %s, %s in %s", record.case, record.status, slices, record.split)
        progress("cases", len(records), len(jobs))
    whole = [job for job in jobs if records[job.case.case].status != "failed"]
    rows = [row for job in whole for row in read_record(job.folder / CASE_FILE, _CaseFile).slices]
    write_text(out / MANIFEST_FILE, "".join(row.to_json() + "\n" for row in rows))
    return SliceReport(out, tuple(records[case.case] for case in cases))


def _claim(out: Path, config: Config, *, overwrite: bool) -> None:
    """Store the config, unless slices of another kind are there."""
    make_folder(out)
    stored = out / CONFIG_FILE
    if stored.exists() and not overwrite:
        before, now = load_config(stored).to_dict(), config.to_dict()
        different = [name for name in _SECTIONS if before[name] != now[name]]
        if different:
            raise DataError(
                f"{out} holds slices that were cut with other settings in {', '.join(different)}",
                hint="choose another folder as `out`, or `overwrite` to cut them again",
                option="overwrite",
            )
    elif not stored.exists() and any(out.iterdir()):
        raise DataError(
            f"{out} is not empty and was not made by verse3d slices",
            hint="choose another folder as `out`",
            option="out",
        )
    write_text(stored, "# How these slices were cut.\n" + config.to_yaml())


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[SliceRecord]:
    """The records as they come."""
    if workers <= 1:
        yield from map(_try_case, jobs)
        return
    for position, outcome in each(_try_case, jobs, workers, "cases are cut"):
        if isinstance(outcome, Failure):
            why = "; too little memory? `workers=1` needs least" if outcome.died else ""
            yield _failed(jobs[position], f"{outcome.reason}{why}")
        else:
            yield outcome


def _try_case(job: _Job) -> SliceRecord:
    try:
        return _write_case(job)
    except CASE_ERRORS as error:
        return _failed(job, reason_of(error))


def _failed(job: _Job, reason: str) -> SliceRecord:
    return SliceRecord(job.case.case, str(job.case.split), "failed", error=reason)


def _write_case(job: _Job) -> SliceRecord:
    for path in (job.case.image_path(), job.case.mask_path()):
        if not path.is_file():
            raise DataError(f"{path} does not exist", hint="if the data were moved, make the index again")
    made_from = job.made_from()
    _refuse_other_split(job)
    if job.folder.exists():
        kept = _kept(job, made_from)
        if kept is not None:
            return SliceRecord(job.case.case, str(job.case.split), "kept", kept)
    config = parse_config(job.config)
    prepared = prepare_case(job.case, config)
    temporary = job.folder.with_name(f"{TEMPORARY_PREFIX}{job.folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a call that was killed
    try:
        temporary.mkdir(parents=True)
        rows = list(_write_pngs(prepared, job, config, temporary))
        content = {"verse3d": __version__, "made_from": made_from, "slices": [asdict(row) for row in rows]}
        write_json(temporary / CASE_FILE, content)
        if job.folder.exists():
            shutil.rmtree(job.folder)
        temporary.replace(job.folder)
    except OSError as error:
        raise error if isinstance(error, Verse3dError) else output_error(job.folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SliceRecord(job.case.case, str(job.case.split), "written", len(rows))


def _refuse_other_split(job: _Job) -> None:
    """A case that was cut for another split would be trained and tested on."""
    others = [path for path in job.out.glob(f"*/{glob.escape(job.case.case)}") if path.parent != job.folder.parent]
    if others:
        raise DataError(
            f"{others[0]} is there, but the case is in the split {job.case.split} now",
            hint="remove that folder, or choose another `out`",
            option="out",
        )


class _CaseFile(Record):
    """What lies beside the slices of a case."""

    made_from: dict[str, Any]
    slices: Many[SliceRow]


def _kept(job: _Job, made_from: dict[str, Any]) -> int | None:
    """How many slices of the case are there; None if they are to be replaced."""
    file = job.folder / CASE_FILE
    if not file.is_file():
        raise DataError(
            f"{job.folder} was not made by verse3d slices", hint="choose another folder as `out`", option="out"
        )
    content = read_record(file, _CaseFile, hint="remove that folder, and the case is cut again")
    if content.made_from == made_from:
        names = [name for row in content.slices for name in (row.image, row.mask)]
        return len(content.slices) if all(_is_there(job.out, name) for name in names) else None
    if job.overwrite:
        return None
    raise DataError(
        f"{job.folder} was cut from other files or with other settings",
        hint="`overwrite` cuts this case again",
        option="overwrite",
    )


def _is_there(out: Path, name: object) -> bool:
    """Whether a file of the list is there; a name that leads out of the folder is none of ours."""
    try:
        return path_below(out, *PurePosixPath(str(name)).parts).is_file()
    except DataError:
        return False


def _write_pngs(case: PreparedCase, job: _Job, config: Config, folder: Path) -> Iterator[SliceRow]:
    slices, scheme = config.slices, label_scheme(config.labels.scheme)
    axis = slice_axis(slices.plane, case.source)
    rows, columns = turned(case.label[0], axis).shape[1:]
    # Pixels that have a size in mm are the voxels of the network grid, and nothing is stretched.
    size = slices.size_pixels if slices.spacing_mm is None else (rows, columns)
    labelled = np.count_nonzero(case.label[0], axis=tuple(other for other in range(3) if other != axis))
    for index in range(case.geometry.shape[axis]):
        if job.only_labelled and not labelled[index]:
            continue
        name = f"{slices.plane}_{index:04d}"
        ids = label_slice(case.label[0], axis, index, size)
        Image.fromarray(grey_slice(case.image[0], axis, index, size)).save(folder / f"{name}.png")
        Image.fromarray(mask_pixels(ids, scheme)).save(folder / f"{name}_mask.png")
        place = job.folder.relative_to(job.out).as_posix()
        files = f"{place}/{name}.png", f"{place}/{name}_mask.png"
        split, original = str(job.case.split), (int(rows), int(columns))
        yield SliceRow(case.case, split, slices.plane, "RAS"[axis], index, *files, original, int(labelled[index]))
