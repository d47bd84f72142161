"""One function per job. The command line calls exactly these; so can a notebook.

Example:
    >>> import verse3d
    >>> verse3d.train(data="cases.jsonl", out="runs/a")  # doctest: +SKIP
    >>> verse3d.predict("scan.nii.gz", model="runs/a/best.pt", out="masks")  # doctest: +SKIP
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import Config, load_config
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import write_text
from verse3d.core.labels import Label, label_scheme
from verse3d.core.runtime import DeviceName, Progress, choose_device, no_progress
from verse3d.core.volume import NIFTI_SUFFIXES, Volume, nifti_stem, read_image, read_labels
from verse3d.data.cases import Case, CaseIndex, Split, assign_splits, split_by_subject, write_index
from verse3d.data.checks import CheckReport, check_cases
from verse3d.data.layouts import discover, load_cases
from verse3d.data.phantom import write_phantom
from verse3d.inference.predict import PredictionReport, Predictor, mask_path, predict_cases
from verse3d.model.modes import get_mode
from verse3d.report.evaluation import Evaluation, evaluate_folder
from verse3d.report.figures import overlay_array, save_figure, three_planes
from verse3d.report.itksnap import open_command, write_label_description
from verse3d.report.planes import display_centre_mm
from verse3d.training.fit import FitResult, fit
from verse3d.training.runfolder import find_run
from verse3d.training.session import FitOptions

LABEL_FILE = "itksnap_labels.txt"
DEMO_MARKER = "verse3d-demo.txt"
PathOrText = str | PathLike[str]


def phantom(
    out: PathOrText, *, cases: int = 6, seed: int = 0, anomalies: bool = False, progress: Progress = no_progress
) -> tuple[Path, ...]:
    """Write synthetic spine CTs with masks, in VerSe's own layout. The same seed gives the same bytes.

    Args:
        out: folder for the three split folders.
        cases: how many scans; about a third of them go to the test split.
        seed: decides everything that is random.
        anomalies: let some cases have a sixth lumbar vertebra, a collapsed body, a screw ...
        progress: told about every case.

    Returns:
        The paths of the scans.

    Raises:
        DataError: ``cases`` is below 1, or the folder holds a data set already.
        OutputError: the folder cannot be written to.
    """
    done = 0

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        progress(f"phantom {name}", done, cases)

    return write_phantom(Path(out), cases=cases, seed=seed, anomalies=anomalies, on_case=on_case)


def index(
    *roots: PathOrText,
    out: PathOrText,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.0,
    resplit: bool = False,
    assign: Mapping[str, Split] | None = None,
) -> CaseIndex:
    """Find all cases below some folders, divide them by subject, and write the list as JSON lines.

    Args:
        roots: folders (or single NIfTI files).
        out: the list, e.g. ``cases.jsonl``.
        seed: decides who is drawn into validation and test where the data set does not say.
        validation: share of subjects for choosing the best epoch.
        test: share of subjects without a split that are kept for testing.
        resplit: ignore the split that the data set comes with.
        assign: subjects or cases that must go to a split, e.g. ``{"sub-verse008": "test"}``.

    Raises:
        DataError: a root is missing, no case is found, or an assigned name is unknown.
        OutputError: the list cannot be written.
    """
    found = discover([Path(root) for root in roots])
    if assign:
        found = assign_splits(found, assign)
    divided = split_by_subject(found, seed=seed, validation=validation, test=test, resplit=resplit)
    if assign and resplit:
        divided = assign_splits(divided, assign)
    write_index(Path(out), divided)
    return divided


def check(data: PathOrText, *, progress: Progress = no_progress) -> CheckReport:
    """Read every scan and mask of an index or a folder and report what is wrong with them.

    Raises:
        DataError: there is no such index or folder, or no case in it.
    """
    return check_cases(load_cases(Path(data)), progress)


def train(
    *,
    data: PathOrText,
    out: PathOrText,
    mode: str = "3d",
    config: PathOrText | Config | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    max_epochs: int | None = None,
    device: DeviceName = "auto",
    progress: Progress = no_progress,
) -> FitResult:
    """Train a network and leave its checkpoints, config, history, log and TensorBoard events in a run folder.

    Args:
        data: an index with splits, or a folder (whose undivided subjects are then divided by ``runtime.seed``).
        out: the run folder.
        mode: which way of segmenting.
        config: path or name of a YAML file, or a ``Config``; None takes the mode's own, or that of a resumed run.
        overrides: ``"section.key=value"`` on top of it.
        resume: go on with the run in ``out`` exactly where it stood.
        overwrite: replace the run in ``out``.
        max_minutes: stop after the first epoch that ends later.
        max_epochs: stop after this epoch of the schedule.
        device: where to train.
        progress: told about every batch.

    Raises:
        ConfigError: the config holds mistakes (all are listed), or contradicts the run to resume.
        DataError: no training case can be used, or the folder holds a run already.
        TrainingError: the loss is no longer a number.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    settings = _training_config(mode, config, overrides, resumed=Path(out) if resume else None)
    options = FitOptions(
        device=choose_device(device),
        resume=resume,
        overwrite=overwrite,
        max_minutes=max_minutes,
        max_epochs=max_epochs,
        paint=_paint,
        progress=progress,
    )
    return fit(settings, _divided(Path(data), settings.runtime.seed), Path(out), options)


def _divided(data: Path, seed: int) -> CaseIndex:
    """The cases with splits. An index in which nobody is undivided is taken as it is, even without validation."""
    cases = load_cases(data)
    complete = [case for case in cases if case.image and case.mask]
    return cases if data.is_file() and all(case.split for case in complete) else split_by_subject(cases, seed=seed)


def _training_config(
    mode: str, config: PathOrText | Config | None, overrides: Sequence[str], *, resumed: Path | None
) -> Config:
    default = get_mode(mode).default_config
    if isinstance(config, Config):
        if overrides:
            raise ConfigError("overrides go with a config file; change the Config itself instead")
        settings = config
    elif config is None and resumed is not None:
        settings = load_config(find_run(resumed).config, overrides)
    else:
        settings = load_config(Path(config) if config is not None else default, overrides)
    if settings.mode != mode:
        raise ConfigError(f"the config is for --mode {settings.mode}, not {mode}")
    return settings


def _paint(
    scan: Volume, masks: Mapping[str, NDArray[np.uint8]], labels: Sequence[Label], title: str
) -> NDArray[np.uint8]:
    truth_only = list(masks.values())[:1]  # so that the slices stay the same while the prediction changes
    centre = display_centre_mm(truth_only, scan.geometry)
    return overlay_array(scan.array, scan.geometry, masks=masks, labels=labels, title=title, centre_mm=centre)


def predict(
    *scans: PathOrText,
    model: PathOrText,
    out: PathOrText,
    split: Split | None = None,
    device: DeviceName = "auto",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> PredictionReport:
    """Write a mask for every scan, on the scan's own grid, named ``<scan stem>_seg-vert_msk.nii.gz``.

    Args:
        scans: NIfTI files, folders or indexes.
        model: ``best.pt`` (or ``last.pt``) of a run folder; nothing else is needed.
        out: folder for the masks, ``predictions.json`` and an ITK-SNAP label file.
        split: only the cases of that split.
        device: where to compute.
        overwrite: replace masks that exist; otherwise their scans are skipped.
        progress: told about every scan and window.

    Returns:
        A record per scan; scans that failed are listed there and do not stop the others.

    Raises:
        DataError: there is nothing to predict.
        CheckpointError: the model is damaged, unsafe, or of another version.
        OutputError: the folder cannot be written to.
    """
    cases = _cases_to_predict([Path(scan) for scan in scans], split)
    predictor = Predictor.from_checkpoint(Path(model), choose_device(device))
    folder = Path(out)
    report = predict_cases(cases, predictor, folder, model=Path(model), overwrite=overwrite, progress=progress)
    write_label_description(folder / LABEL_FILE, predictor.scheme.labels)
    return report


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
    """The cases behind one argument; a scan that is missing becomes a case that will fail by itself."""
    if not scan.exists() and scan.name.lower().endswith(NIFTI_SUFFIXES):
        return [Case(nifti_stem(scan).removesuffix("_ct"), scan.name, scan.absolute())]
    return load_cases(scan).cases


def evaluate(
    *,
    pred: PathOrText,
    truth: PathOrText,
    out: PathOrText,
    split: Split | None = None,
    scheme: str | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score masks against the truth on the grids of the scans: Dice, HD95, ASSD, volume difference.

    Args:
        pred: a folder of masks as ``predict`` writes it.
        truth: an index or a folder with masks in VerSe ids.
        out: the scores as JSON; a CSV of the same name is written beside it.
        split: only the cases of that split.
        scheme: "binary" or "vertebrae"; None takes what the predictions say.
        progress: told about every case.

    Raises:
        DataError: no mask belongs to a case with a truth.
    """
    cases = load_cases(Path(truth))
    chosen = CaseIndex(tuple(case for case in cases if not split or case.split == split))
    return evaluate_folder(Path(pred), chosen, Path(out), scheme=scheme, progress=progress)


@dataclass(frozen=True)
class DemoResult:
    """What ``demo`` leaves behind.

    Attributes:
        findings: of the data check.
        training: how the run stands.
        predictions: a record per unseen case.
        evaluation: their scores.
        overlay: a PNG of the first unseen case.
        label_file: for ITK-SNAP.
        open_itksnap: the command that opens the first unseen case.
        open_tensorboard: the command that shows the run.
    """

    findings: CheckReport
    training: FitResult
    predictions: PredictionReport
    evaluation: Evaluation
    overlay: Path
    label_file: Path
    open_itksnap: str
    open_tensorboard: str


def demo(
    *,
    out: PathOrText = "runs/demo",
    cases: int = 10,
    seed: int = 0,
    config: PathOrText = "demo3d",
    overrides: Sequence[str] = (),
    max_minutes: float | None = None,
    device: DeviceName = "auto",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> DemoResult:
    """The whole journey on synthetic data: phantom, index, check, train, predict unseen cases, evaluate, picture.

    Args:
        out: gets ``data/``, ``cases.jsonl``, ``run/``, ``masks/``, ``scores.json`` and ``overlay.png``.
        cases: how many phantoms.
        seed: of the phantoms.
        config: of the training.
        overrides: ``"section.key=value"`` on top of it.
        max_minutes: of the training.
        device: for training and prediction.
        overwrite: replace an earlier demo in ``out``.
        progress: told about every stage.

    Raises:
        DataError: ``out`` holds a demo already, or files of these names that no demo wrote.
        KeyboardInterrupt: the training was interrupted.
    """
    folder = Path(out)
    _clear_demo(folder, overwrite=overwrite)
    listed, run, masks = folder / "cases.jsonl", folder / "run", folder / "masks"
    phantom(folder / "data", cases=cases, seed=seed, progress=progress)
    found = index(folder / "data", out=listed, seed=seed)
    findings = check(listed, progress=progress)
    training = train(
        data=listed,
        out=run,
        config=config,
        overrides=overrides,
        max_minutes=max_minutes,
        device=device,
        progress=progress,
    )
    if training.stopped == "interrupted":
        raise KeyboardInterrupt
    predictions = predict(listed, model=training.best, out=masks, split="test", device=device, progress=progress)
    evaluation = evaluate(pred=masks, truth=listed, out=folder / "scores.json", split="test", progress=progress)
    first = found.in_split("test")[0]
    labels = masks / LABEL_FILE
    return DemoResult(
        findings=findings,
        training=training,
        predictions=predictions,
        evaluation=evaluation,
        overlay=_draw_case(first, masks, folder / "overlay.png"),
        label_file=labels,
        open_itksnap=open_command(first.image_path(), mask_path(masks, first.case), labels),
        open_tensorboard=f"tensorboard --logdir {training.folder / 'tensorboard'}",
    )


def _clear_demo(folder: Path, *, overwrite: bool) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    parts = [folder / name for name in ("data", "cases.jsonl", "run", "masks", "scores.json", "scores.csv")]
    existing = [part for part in parts if part.exists()]
    marker = folder / DEMO_MARKER
    if existing and not marker.exists():
        raise DataError(
            f"{folder} holds {existing[0].name}, which no demo wrote", hint="choose another --out folder for the demo"
        )
    if existing and not overwrite:
        raise DataError(
            f"{folder} already holds a demo ({existing[0].name})", hint="use --overwrite or another --out folder"
        )
    write_text(marker, "Everything here was written by verse3d demo; with --overwrite it is deleted and made again.\n")
    for part in existing:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _draw_case(case: Case, masks: Path, path: Path) -> Path:
    """Three planes of a case with its truth and its prediction, both as "vertebra or not"."""
    scan = read_image(case.image_path())
    shown = {
        "truth": (read_labels(case.mask_path()).array > 0).astype(np.uint8),
        "prediction": (read_labels(mask_path(masks, case.case)).array > 0).astype(np.uint8),
    }
    figure = three_planes(
        scan.array, scan.geometry, masks=shown, labels=label_scheme("binary").labels, title=f"{case.case}, unseen"
    )
    save_figure(figure, path)
    return path
