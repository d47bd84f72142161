"""Phantom cases on disk, in VerSe's own folders and names."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.core.files import make_folder
from verse3d.core.paths import path_below
from verse3d.core.phantom_sidecar import SIDECAR, SOURCE
from verse3d.core.worker_pool import CannotStartError, Failure, affordable_workers, each_in_processes
from verse3d.phantoms.case import PhantomCase, make_case
from verse3d.phantoms.levels import Anomaly
from verse3d.phantoms.mask_shapes import read_shapes, require_vertebrae
from verse3d.phantoms.rendered import make_rendered

_TRAINING, _VALIDATION, _TEST = "dataset-01training", "dataset-02validation", "dataset-03test"
_FIRST_SUBJECT, _MOST_CASES = 900, 100
_ANOMALIES: tuple[Anomaly, ...] = ("l6", "t13", "t12-missing", "collapsed", "screw")
"""Of the cases of a data set, in turn."""
_FIRST_RENDERED, _MOST_RENDERED = 1000, 1000
"""Numbers of their own, so that a data set may hold both kinds."""
_CASE_BYTES = 2**29
"""What drawing a case holds at most, about."""
_RENDERED_BYTES = 2**30
"""The same for a case around the vertebrae of a mask, with the shapes that are kept."""
_shapes_of = lru_cache(maxsize=8)(read_shapes)
"""Masks are drawn many times, and reading one takes as long as drawing it."""


def write_phantom(
    out: Path,
    *,
    cases: int = 6,
    seed: int = 0,
    anomalies: bool = False,
    masks: Sequence[Path] | None = None,
    workers: int | None = 1,
    on_case: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Write synthetic spine CTs with masks and centroids, laid out and named like VerSe (subject-based).

    About 30 % of the cases become test cases and 15 % validation cases (at least one each from three cases on). Case
    ``i`` depends on ``seed`` and ``i`` alone: a longer series begins with the same images, perhaps in other folders.

    Args:
        out: folder to fill; made if it does not exist.
        cases: how many, 1 to 100; the subjects are called sub-verse900, sub-verse901, ... With ``masks`` 1 to 1000,
            called sub-verse1000, sub-verse1001, ...
        seed: same seed, same bytes.
        anomalies: let the cases show, in turns, an L6, a T13, a missing T12, a collapsed body, metal screws.
        masks: VerSe masks whose vertebrae are drawn, deformed, instead of mathematical ones; each is used equally
            often, in an order that ``seed`` decides. None draws mathematical ones.
        workers: processes that draw; 1 draws in this one, None takes as many as cores and memory allow.
        on_case: called with the subject's name after each case is whole on disk; in their order with one worker.

    Returns:
        Paths of the images, in the order of their subjects.

    Raises:
        DataError: ``cases`` is out of range, ``seed`` is negative, or a mask cannot be used.
        ConfigError: masks and anomalies are both asked for.
        OutputError: the folder already holds a ``dataset-0...`` folder, or cannot be written.
    """
    _require_possible(out, cases, seed, anomalies=anomalies, by_masks=masks is not None)
    sources = _in_turns(masks, seed, cases) if masks is not None else [None] * cases
    make_folder(out)  # before the first case is drawn, which takes seconds
    kinds: tuple[Anomaly | None, ...] = _ANOMALIES if anomalies else (None,)
    jobs = [
        _Job(path_below(out, split), seed, index, kinds[index % len(kinds)], sources[index])
        for index, split in enumerate(splits(cases))
    ]
    if workers is None:
        case_bytes = _CASE_BYTES if masks is None else _RENDERED_BYTES
        workers = affordable_workers([case_bytes] * cases, [case_bytes] * cases)
    written = {}
    for number, path in _drawn(jobs, workers):
        written[number] = path
        if on_case is not None:
            on_case(jobs[number].name)
    return tuple(written[number] for number in range(cases))


def _require_possible(out: Path, cases: int, seed: int, *, anomalies: bool, by_masks: bool) -> None:
    most = _MOST_RENDERED if by_masks else _MOST_CASES
    if not 1 <= cases <= most:
        raise DataError(f"cases must be 1 to {most}, got {cases}", hint="ask for 6 cases to try things out")
    if by_masks and anomalies:
        raise ConfigError("masks show their own anomalies", hint="leave out `anomalies`, or `masks`")
    if seed < 0:
        raise DataError(f"seed must not be negative, got {seed}")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, but the phantom needs a folder", hint="name another folder")
    if present := sorted(path.name for path in out.glob("dataset-0*")):
        raise OutputError(f"{out} already holds {', '.join(present)}", hint="name a new folder, or delete these first")


@dataclass(frozen=True)
class _Job:
    """A case to be drawn, by whichever process: it depends on nothing else."""

    folder: Path
    seed: int
    index: int
    anomaly: Anomaly | None
    mask: Path | None

    @property
    def name(self) -> str:
        return f"sub-verse{(_FIRST_SUBJECT if self.mask is None else _FIRST_RENDERED) + self.index}"

    def done(self) -> Path:
        """Draw and write it; the path of its image."""
        if self.mask is None:
            return _write_case(self.folder, self.name, make_case(self.seed, self.index, anomaly=self.anomaly))
        case = make_rendered(_shapes_of(self.mask), self.seed, self.index)
        return _write_case(self.folder, self.name, case, {**SIDECAR, SOURCE: self.mask.name})


def _in_turns(masks: Sequence[Path], seed: int, cases: int) -> list[Path]:
    """The mask of each case. Every mask is read once before anything is written, so a bad one is told at once."""
    if not masks:
        raise DataError("there is no mask to draw vertebrae from", hint="name a folder with VerSe masks, or an index")
    order = np.random.default_rng([seed, len(masks)]).permutation(len(masks))
    chosen = [masks[order[index % len(masks)]] for index in range(cases)]
    for mask in dict.fromkeys(chosen):
        require_vertebrae(mask)
    return chosen


def _drawn(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[int, Path]]:
    """(number, image) as they are finished; what processes could not begin is drawn here."""
    waiting = set(range(len(jobs)))
    if workers > 1:
        with contextlib.suppress(CannotStartError):
            for number, outcome in each_in_processes(_Job.done, jobs, workers):
                if isinstance(outcome, Failure):
                    raise OutputError(f"{jobs[number].name} could not be written: {outcome.reason}")
                waiting.discard(number)
                yield number, outcome
    for number in sorted(waiting):
        yield number, jobs[number].done()


def splits(cases: int) -> list[str]:
    """The dataset folder of each case: training first, then validation, then test."""
    test = max(1, round(0.3 * cases)) if cases > 1 else 0
    validation = max(1, round(0.15 * cases)) if cases > 2 else 0
    return [_TRAINING] * (cases - test - validation) + [_VALIDATION] * validation + [_TEST] * test


def _write_case(folder: Path, name: str, case: PhantomCase, sidecar: Mapping[str, object] = SIDECAR) -> Path:
    """Write the four files of a case; the image comes last, so that a case with an image is whole."""
    raw, derived = folder / "rawdata" / name, folder / "derivatives" / name
    image = raw / f"{name}_ct.nii.gz"
    try:
        for directory in (raw, derived):
            directory.mkdir(parents=True, exist_ok=True)
        points = [
            {"label": label, **{axis: round(value, 1) for axis, value in zip("XYZ", centroid, strict=True)}}
            for label, centroid in case.centroids.items()
        ]
        _write_json(derived / f"{name}_seg-subreg_ctd.json", [{"direction": list(case.geometry.axis_codes)}, *points])
        _write_json(raw / f"{name}_ct.json", sidecar)
        _write_nifti(derived / f"{name}_seg-vert_msk.nii.gz", case.mask, case)
        _write_nifti(image, case.image_hu, case)
    except OSError as error:
        raise OutputError(
            f"cannot write {name} into {folder}: {error}", hint="check the disk's space and rights"
        ) from error
    return image


def _write_json(path: Path, content: object) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def _write_nifti(path: Path, array: NDArray[np.int16] | NDArray[np.uint8], case: PhantomCase) -> None:
    image = nib.Nifti1Image(array, case.geometry.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(case.geometry.affine, code=case.headers.qform_code)
    image.set_sform(case.geometry.affine, code=case.headers.sform_code)
    temporary = path.with_name(f".{path.name}")
    nib.save(image, temporary)
    temporary.replace(path)
