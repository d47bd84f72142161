"""The jobs about models, one function each."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import Config, load_config
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText, make_folder
from verse3d.core.labels import Label
from verse3d.core.logs import Progress, no_progress
from verse3d.core.planes import display_centre_mm
from verse3d.core.preview import Preview
from verse3d.core.runtime import DeviceName, choose_device
from verse3d.core.volume import NIFTI_SUFFIXES, Volume
from verse3d.data.cases import Case, CaseIndex, Split
from verse3d.data.index.deduplicate import merge_series
from verse3d.data.index.discover import load_cases
from verse3d.data.index.file_roles import scan_name
from verse3d.data.samples.store import store_beside
from verse3d.data.schemes import MaskScheme
from verse3d.data.splits import hold_out_fold, split_by_subject
from verse3d.evaluation.foreign import read_label_map
from verse3d.evaluation.score_folder import Evaluation, evaluate_folder
from verse3d.inference.backends import BackendName
from verse3d.inference.loading import described, models_sha256, open_predictor
from verse3d.inference.predict import PredictOptions, predict_cases
from verse3d.inference.records import PredictionReport
from verse3d.model.modes import get_mode, require_suitable
from verse3d.report.figures import figure_array
from verse3d.report.itksnap import write_label_description
from verse3d.report.look import DPI, look_figure
from verse3d.report.pictures import draw_evaluation
from verse3d.training.fit import FitResult, fit
from verse3d.training.ranks import joined, rank_device, started_ranks
from verse3d.training.runfolder import RunFolder, find_run
from verse3d.training.session import FitOptions

LABEL_FILE = "itksnap_labels.txt"


def train(
    *,
    data: PathOrText,
    out: PathOrText,
    mode: str | None = None,
    config: PathOrText | Config | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    max_epochs: int | None = None,
    fold: int | None = None,
    store: PathOrText | None = None,
    device: DeviceName = "auto",
    progress: Progress = no_progress,
) -> FitResult:
    """Train a network and leave its checkpoints, config, history, log and TensorBoard events in a run folder.

    Started as several processes (torchrun), they share the run: ``sampling.batch_size`` is that of all of them.

    Args:
        data: an index with splits, or a folder (whose undivided subjects are then divided by ``runtime.seed``).
        out: the run folder.
        mode: which way of segmenting, "3d", "2d" or "2.5d"; None takes that of the config, else "3d".
        config: path or name of a YAML file, or a ``Config``; None takes the mode's own, or that of a resumed run.
        overrides: ``"section.key=value"`` on top of it.
        resume: go on with the run in ``out`` exactly where it stood.
        overwrite: replace the run in ``out``.
        max_minutes: of this call: then it stops, wherever it is in an epoch, and validates once more. The learning rate
            falls to 0 by then (except under ``runtime.deterministic``), so a run in several slots of a cluster is
            better stopped by a signal.
        max_epochs: stop after this epoch of the schedule.
        fold: validate on this fold of the index and train on the others (see ``index(folds=...)``).
        store: folder of prepared cases, which is filled as needed; None for ``cases.store`` beside ``cases.jsonl``, or
            the one that the run to resume has used.
        device: where to train.
        progress: told about every batch.

    Raises:
        ConfigError: the config holds mistakes (all are listed), or contradicts the run to resume.
        DataError: no training case can be used, the index lacks the fold, or the folder holds a run already.
        OutputError: the run folder or the store cannot be written to, or the disk is too small for the store.
        TrainingError: the loss is no longer a number.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    settings = training_config(mode, config, overrides, resumed=Path(out) if resume else None)
    cases = divided(Path(data), settings.runtime.seed)
    rank, count, local_rank = started_ranks()
    device_here = rank_device(choose_device(device), local_rank, count)
    with joined(device_here) as ranks:
        options = FitOptions(
            device=device_here,
            resume=resume,
            overwrite=overwrite,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            paint=_paint,
            progress=progress if rank == 0 else no_progress,
            store=_store(Path(data), Path(out), store, resume=resume),
            ranks=ranks,
        )
        return fit(settings, cases if fold is None else hold_out_fold(cases, fold), Path(out), options)


def _store(data: Path, out: Path, store: PathOrText | None, *, resume: bool) -> Path | None:
    """The folder of prepared cases; None for the one that a run has noted."""
    if store is not None:
        return Path(store)
    return None if resume and RunFolder(out).store_note.is_file() else store_beside(data)


def divided(data: Path, seed: int) -> CaseIndex:
    """The cases with splits. An index in which nobody is undivided is taken as it is, even without validation."""
    cases = load_cases(data) if data.is_file() else CaseIndex(merge_series(load_cases(data).cases, {})[0])
    complete = [case for case in cases if case.image and case.mask]
    return cases if data.is_file() and all(case.split for case in complete) else split_by_subject(cases, seed=seed)


def training_config(
    mode: str | None, config: PathOrText | Config | None, overrides: Sequence[str], *, resumed: Path | None = None
) -> Config:
    """The settings of a training, checked as far as that goes without data; arguments as in ``train``."""
    default = get_mode(mode or "3d").default_config
    if isinstance(config, Config):
        if overrides:
            raise ConfigError("overrides go with a config file; change the Config itself instead")
        settings = config
    elif config is None and resumed is not None:
        settings = load_config(find_run(resumed).config, overrides)
    else:
        settings = load_config(Path(config) if config is not None else default, overrides)
    if mode and settings.mode != mode:
        what = f"{resumed} is a run of" if resumed is not None and config is None else "the config is for"
        raise ConfigError(f"{what} --mode {settings.mode}, not {mode}", hint="leave --mode out, or name the right one")
    require_suitable(settings)
    return settings


def _paint(
    scan: Volume, masks: Mapping[str, NDArray[np.uint8]], labels: Sequence[Label], title: str
) -> NDArray[np.uint8]:
    """A scan with each mask over it, as ``look`` draws it, one below the other: RGB (H, W, 3) uint8."""
    # All through the middle of the truth, so that the slices stay the same while the prediction changes.
    centre = display_centre_mm(list(masks.values())[:1], scan.geometry)
    scheme = MaskScheme("binary" if len(labels) == 1 else "vertebrae", "as it is trained")
    sheets = []
    for name, mask in masks.items():
        drawn = look_figure(Preview(scan), mask=mask, title=f"{title}, {name}", at_mm=centre, scheme=scheme)
        sheets.append(figure_array(drawn.figure, dpi=DPI))
    width = max(sheet.shape[1] for sheet in sheets)
    return np.concatenate([np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0))) for sheet in sheets])


def predict(
    *scans: PathOrText,
    model: PathOrText | Sequence[PathOrText],
    out: PathOrText,
    split: Split | None = None,
    device: DeviceName = "auto",
    backend: BackendName = "auto",
    tta: bool = False,
    skip_air: bool = True,
    max_ram_gb: float | None = None,
    parts: int = 1,
    part: int = 0,
    one_by_one: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> PredictionReport:
    """Write a mask for every scan, on the scan's own grid, named ``<scan stem>_seg-vert_msk.nii.gz``.

    Args:
        scans: NIfTI files, folders or indexes.
        model: ``best.pt`` (or ``last.pt``) of a run folder; nothing else is needed. Several are averaged.
        out: folder for the masks, ``predictions.json`` and an ITK-SNAP label file.
        split: only the cases of that split.
        device: where to compute.
        backend: what runs the network: "torch", "openvino", or "auto" (OpenVINO on a CPU if it is installed).
        tta: average with the prediction of the mirror image (left and right exchanged); takes twice as long.
        skip_air: leave out windows that hold nothing of the patient.
        max_ram_gb: largest resident memory of the process, GB (10^9 bytes); None: what is free, less a tenth.
        parts: divide the scans among so many jobs that write into the same folder ...
        part: ... of which this is number ``part`` (0 ... parts - 1).
        one_by_one: do not read the next scan and write the last one while the network works.
        overwrite: replace masks that exist; otherwise their scans are skipped.
        progress: told about every scan and window.

    Returns:
        A record per scan; scans that failed are listed there and do not stop the others.

    Raises:
        ConfigError: the options contradict each other, the models cannot be averaged, or the backend cannot be had.
        DataError: there is nothing to predict.
        MemoryLimitError: the program and the model alone exceed ``max_ram_gb``.
        CheckpointError: the model is damaged, unsafe, or of another version.
        OutputError: the folder cannot be written to.
    """
    models = [Path(model)] if isinstance(model, str | os.PathLike) else [Path(one) for one in model]
    _refuse_options(models, parts, part, max_ram_gb)
    cases = _cases_to_predict([Path(scan) for scan in scans], split)
    predictor = open_predictor(models, choose_device(device), backend=backend, tta=tta, skip_air=skip_air)
    folder = Path(out)
    report = predict_cases(
        cases,
        predictor,
        folder,
        about=lambda: described(predictor, models),
        model_sha256=models_sha256(models),
        options=PredictOptions(overwrite, part, parts, max_ram_gb, overlap=not one_by_one),
        progress=progress,
    )
    write_label_description(folder / LABEL_FILE, predictor.scheme.labels)
    return report


def _refuse_options(models: Sequence[Path], parts: int, part: int, max_ram_gb: float | None) -> None:
    if not models:
        raise ConfigError("no model was given")
    if len({path.resolve() for path in models}) < len(models):
        raise ConfigError("the same model was given twice: it would count twice in the average")
    if parts < 1 or not 0 <= part < parts:
        raise ConfigError(f"part {part} of {parts} parts does not exist", hint="parts are counted from 0")
    if max_ram_gb is not None and max_ram_gb <= 0:
        raise ConfigError(f"--max-ram-gb must be above 0, got {max_ram_gb:g}")


def _cases_to_predict(scans: Sequence[Path], split: Split | None) -> list[Case]:
    cases: dict[str, Case] = {}
    for scan in scans:
        for case in _cases_of(scan):
            if case.image is None or (split and case.split != split):
                continue
            if case.case in cases and cases[case.case].image != case.image:
                raise DataError(
                    f"two scans would get the same mask name {case.case}: {cases[case.case].image} and {case.image}",
                    hint="predict them into different folders, or list them in an index with different names",
                )
            cases[case.case] = case
    if not cases:
        raise DataError(f"nothing to predict: no scan{f' of the {split} split' if split else ''} was found")
    return list(cases.values())


def _cases_of(scan: Path) -> Sequence[Case]:
    """The cases behind one argument; a single scan keeps its name, and fails by itself if it is missing or none."""
    if scan.name.lower().endswith(NIFTI_SUFFIXES) and not scan.is_dir():
        return [Case(scan_name(scan), scan.name, scan.absolute())]
    return load_cases(scan).cases


def evaluate(
    *,
    pred: PathOrText,
    truth: PathOrText,
    out: PathOrText,
    split: Split | None = None,
    scheme: str | None = None,
    label_map: str | None = None,
    pictures: PathOrText | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score masks against the truth on the grids of the scans: Dice, HD95, ASSD, volume difference, slice-wise Dice.

    Of single vertebrae also VerSe's scorecard: identified, missed and extra ones, shifts, mixed bones.

    Args:
        pred: a folder of masks as ``predict``, nnU-Net or TotalSegmentator writes it.
        truth: an index or a folder with masks in VerSe ids.
        out: the scores as JSON; a CSV of the same name is written beside it.
        split: only the cases of that split.
        scheme: "binary" or "vertebrae"; None takes what the predictions say.
        label_map: which id of another program is which vertebra: a JSON file or "totalsegmentator".
        pictures: folder for a picture of each scored case (CT, truth and prediction) and, if the run folder of the
            model that ``predictions.json`` names is still there, its loss curve.
        progress: told about every case.

    Raises:
        DataError: no mask belongs to a case with a truth.
        OutputError: scores or pictures cannot be written.
    """
    cases = load_cases(Path(truth))
    chosen = CaseIndex(tuple(case for case in cases if not split or case.split == split))
    ids = read_label_map(label_map) if label_map else None
    result = evaluate_folder(Path(pred), chosen, Path(out), scheme=scheme, label_map=ids, progress=progress)
    if pictures is not None:
        draw_evaluation(result, chosen, Path(pred), make_folder(Path(pictures)))
    return result
