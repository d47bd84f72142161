"""Masks of scans by one model, or by several together."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verse3d import api
from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText, is_file, make_folder, remove_leftovers
from verse3d.core.importing import uncollected
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.nifti_errors import not_a_file
from verse3d.core.nifti_header import NIFTI_SUFFIXES
from verse3d.core.paths import path_below
from verse3d.core.read_ahead import ReadAhead
from verse3d.core.threads import usable_cores
from verse3d.core.wording import how_many
from verse3d.data.cases import Case, Split
from verse3d.data.index.discover import load_cases
from verse3d.data.index.file_roles import scan_name
from verse3d.data.predictions import has_mask
from verse3d.inference.partial import PartialVertebrae, keeps_partial
from verse3d.inference.records import PredictionReport
from verse3d.model.locate import model_files
from verse3d.report.itksnap import write_label_description

if TYPE_CHECKING:
    from verse3d.core.runtime import DeviceName
    from verse3d.inference.backends import BackendName

_log = logger(__name__)
PREVIEWS = "previews"
"""The folder of pictures beside the masks."""
LABEL_FILE = "itksnap_labels.txt"


def predict(
    *scans: PathOrText,
    model: PathOrText | Sequence[PathOrText] | None = None,
    out: PathOrText,
    split: Split | None = None,
    device: "DeviceName" = "auto",
    backend: "BackendName" = "auto",
    tta: bool = False,
    skip_air: bool = True,
    partial: PartialVertebrae = "drop",
    max_ram_gb: float | None = None,
    parts: int = 1,
    part: int = 0,
    one_by_one: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    progress: Progress = no_progress,
) -> PredictionReport:
    """Write a mask for every scan, on the scan's own grid, named ``<scan stem>_seg-vert_msk.nii.gz``.

    Args:
        scans: NIfTI files, folders or indexes.
        model: a run folder, or a ``best.pt`` or ``last.pt``; nothing else is needed. Several are averaged.
            None for the starter weights that come with verse3d.
        out: folder for the masks, ``predictions.json`` and an ITK-SNAP label file.
        split: only the cases of that split.
        device: where to compute.
        backend: what runs the network: "torch", "openvino", or "auto" (the quicker one of these on a CPU).
        tta: average with the prediction of the mirror image (left and right exchanged); takes twice as long.
        skip_air: leave out windows that hold nothing of the patient.
        partial: whether masks show vertebrae that the scan cuts, where vertebrae are named by their sequence. They are
            listed either way.
        max_ram_gb: largest resident memory of the process, GB (10^9 bytes); None: what is free, less a tenth.
        parts: divide the scans among so many jobs that write into the same folder ...
        part: ... of which this is number ``part`` (0 ... parts - 1).
        one_by_one: do not read the next scan and write the last one while the network works.
        overwrite: replace masks that exist; otherwise their scans are skipped.
        preview: draw a PNG of each new mask in ``out/previews``, once all masks are written.
        progress: told about every scan and window.

    Returns:
        A record per scan; scans that failed are listed there and do not stop the others.

    Raises:
        ConfigError: the options contradict each other, the models cannot be averaged, or the backend cannot be had.
        DataError: there is nothing to predict, or not a single scan is there.
        MemoryLimitError: the program and the model alone exceed ``max_ram_gb``.
        CheckpointError: the model is damaged, unsafe, or of another version.
        OutputError: the folder cannot be written to.
    """
    if parts < 1 or not 0 <= part < parts:
        raise ConfigError(f"part {part} of {how_many(parts, 'part')} does not exist", hint="parts are counted from 0")
    if max_ram_gb is not None and max_ram_gb <= 0:
        raise ConfigError(f"`max_ram_gb` must be above 0, got {max_ram_gb:g}", option="max_ram_gb")
    keep_partial = keeps_partial(partial)
    # Options, scans, models: whoever mistypes a scan hears of nothing else.
    cases = _cases_to_predict([Path(scan) for scan in scans], split)
    _require_any_scan(cases)
    models, folder = model_files(model), Path(out)
    # Where memory is limited, or scarce on purpose, nothing is read before it is planned.
    reads_ahead = max_ram_gb is None and not one_by_one
    ahead = _read_ahead(cases[part::parts], folder, overwrite=overwrite) if reads_ahead else None
    with uncollected():
        # Not before: PyTorch takes a second or two, in which the first scan is unpacked.
        from verse3d.core.runtime import choose_device
        from verse3d.inference.loading import described, models_sha256, open_predictor
        from verse3d.inference.predict import PredictOptions, predict_cases
    predictor = open_predictor(
        models, choose_device(device), backend=backend, tta=tta, skip_air=skip_air, keep_partial=keep_partial
    )
    report = predict_cases(
        cases,
        predictor,
        folder,
        about=lambda: described(predictor, models),
        model_sha256=models_sha256(models),
        options=PredictOptions(overwrite, part, parts, max_ram_gb, overlap=not one_by_one),
        progress=progress,
        ahead=ahead,
    )
    # Last: it belongs to masks, and there may be none.
    write_label_description(folder / LABEL_FILE, predictor.method.scheme.labels)
    if (folder / PREVIEWS).is_dir():
        remove_leftovers(folder / PREVIEWS)  # of calls that were killed while they drew
    if preview:
        draw_previews(report, progress)
    return report


def _read_ahead(cases: Sequence[Case], out: Path, *, overwrite: bool) -> ReadAhead | None:
    """The first scan, as it is read while the program loads; None if there is nothing to be done, or no core for it."""
    if not cases or usable_cores() == 1 or not is_file(cases[0].image_path()):
        return None
    return ReadAhead(cases[0].image_path()) if overwrite or not has_mask(out, cases[0].case) else None


def draw_previews(report: PredictionReport, progress: Progress = no_progress) -> list[Path]:
    """A picture of each mask that was written, as ``look`` draws it. One that cannot be drawn is only logged.

    Scans are read again, one at a time: what the pictures need is never held beside what the network needs.

    Returns:
        The pictures.
    """
    written = [record for record in report.records if record.status == "written"]
    if not written:
        return []
    pictures = []
    for number, record in enumerate(written):
        progress("previews", number, len(written))
        try:
            picture = path_below(make_folder(report.folder / PREVIEWS), f"{record.case}.png")
            api.look(record.image, mask=report.folder / record.mask, out=picture, overwrite=True)
            pictures.append(picture)
        except CASE_ERRORS as error:
            _log.warning("%s has no preview: %s", record.case, reason_of(error))
    progress("previews", len(written), len(written))
    return pictures


def _cases_to_predict(scans: Sequence[Path], split: Split | None) -> list[Case]:
    cases: dict[str, Case] = {}
    lone_masks = 0
    for scan in scans:
        # A single scan keeps its name, and fails by itself if it is missing or none.
        lone = scan.name.lower().endswith(NIFTI_SUFFIXES) and not scan.is_dir()
        for case in [Case(scan_name(scan), scan.name, scan.absolute())] if lone else load_cases(scan).cases:
            if case.image is None or (split and case.split != split):
                lone_masks += case.image is None
                continue
            # The same scan twice is one scan; two scans of one name would write over each other's mask.
            if case.case in cases and cases[case.case].image != case.image:
                raise DataError(
                    f"two scans would get the same mask name {case.case}: {cases[case.case].image} and {case.image}",
                    hint="predict them into different folders, or list them in an index with different names",
                )
            cases[case.case] = case
    if not cases:
        where = f" of the {split} split" if split else ""
        hint = f"what is there has a name like that of a mask ({how_many(lone_masks, 'case')})" if lone_masks else ""
        raise DataError(f"nothing to predict: no scan{where} was found", hint=hint)
    return list(cases.values())


def _require_any_scan(cases: Sequence[Case]) -> None:
    """Before a model is loaded and anything written: say which scans are not there, and stop if none is.

    Raises:
        DataError: not a single scan is there.
    """
    missing = [case.image_path() for case in cases if not is_file(case.image_path())]
    if len(missing) == len(cases):
        first, more = not_a_file(missing[0]), len(missing) - 1
        raise DataError(f"{first.message}{f' (and {more} more cannot be found)' if more else ''}", hint=first.hint)
    for path in missing:
        _log.warning("%s; the other scans are predicted", not_a_file(path).message)
