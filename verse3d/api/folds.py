"""The job that trains all folds of a cross-validation, one after another, resumable as a whole.

OUT/fold0   validated on fold 0, trained on the others
OUT/fold1   ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.api.models import divided, train, training_config
from verse3d.core.config import Config
from verse3d.core.errors import DataError
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.core.runtime import DeviceName
from verse3d.data.samples.store import store_beside
from verse3d.data.splits import known_folds
from verse3d.model.locate import model_file
from verse3d.training.fit import FitResult
from verse3d.training.initial import InitialWeights, read_initial
from verse3d.training.runfolder import RunFolder, fold_folder


@dataclass(frozen=True)
class FoldsResult:
    """How a cross-validation stands.

    Attributes:
        folder: holds a run folder per fold.
        folds: the results of the folds that this call has worked on or found finished, by fold.
        count: how many folds there are.
    """

    folder: Path
    folds: dict[int, FitResult]
    count: int

    @property
    def stopped(self) -> str:
        """ "finished" if all folds are; else why the last one was stopped."""
        last = list(self.folds.values())[-1].stopped
        return "finished" if last == "finished" and len(self.folds) == self.count else last


def train_folds(
    *,
    data: PathOrText,
    out: PathOrText,
    mode: str | None = None,
    config: PathOrText | Config | None = None,
    from_model: PathOrText | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    max_epochs: int | None = None,
    store: PathOrText | None = None,
    device: DeviceName = "auto",
    progress: Progress = no_progress,
) -> FoldsResult:
    """Train every fold of the index into ``out/fold0``, ``out/fold1`` ...; they share the prepared cases.

    Args:
        data: an index with folds (see ``index(folds=...)``).
        out: gets a run folder per fold.
        from_model: every fold begins with the weights of this model, as in ``train``. Name it again when going on: the
            folds that were not begun need it.
        resume: go on with the fold that was stopped; finished ones are kept, those that were not begun are begun.
        max_minutes: of each fold.
        mode, config, overrides, overwrite, max_epochs, store, device, progress: as in ``train``.

    Raises:
        DataError: the index has no folds, or a fold's folder holds a run already (before anything is trained).
        ConfigError, OutputError, TrainingError: as in ``train``.
    """
    folds, folder = folds_of(data), Path(out)
    initial = None if from_model is None else read_initial(model_file(from_model))
    settings = _settings(mode, config, overrides, folder, folds, resume=resume, initial=initial)
    if not (resume or overwrite):
        _require_free(folder, folds)
    results: dict[int, FitResult] = {}
    for fold in folds:
        # A fold that was stopped goes on, one that never began begins: both by the same call.
        run = fold_folder(folder, fold)
        goes_on = resume and RunFolder(run).last.is_file()
        results[fold] = train(
            data=data,
            out=run,
            config=settings,
            from_model=None if goes_on else from_model,
            resume=goes_on,
            overwrite=overwrite,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            fold=fold,
            # One store: every fold trains on cases that another one validates on, so each is prepared once.
            store=store if store is not None else store_beside(Path(data)),
            device=device,
            progress=_named(progress, fold, len(folds)),
        )
        if results[fold].stopped in ("interrupted", "terminated"):
            break
    return FoldsResult(folder, results, len(folds))


def folds_of(data: PathOrText) -> tuple[int, ...]:
    """The numbers of the folds of an index.

    Raises:
        DataError: it has none.
    """
    folds = known_folds(divided(Path(data), 0))
    if not folds:
        raise DataError(f"{data} has no folds", hint="make the index with `folds`, e.g. 5")
    return folds


def _settings(
    mode: str | None,
    config: PathOrText | Config | None,
    overrides: Sequence[str],
    folder: Path,
    folds: Sequence[int],
    *,
    resume: bool,
    initial: InitialWeights | None,
) -> Config:
    """One config for all folds; that of the first fold if they are gone on with."""
    # Folds that differ in a setting are no cross-validation: all take the config of the first that was begun.
    runs = [fold_folder(folder, fold) for fold in folds]
    begun = [run for run in runs if RunFolder(run).last.is_file()]
    if resume and not begun and config is None and initial is None:
        raise DataError(f"{folder} holds no fold to resume", hint="start the folds without resuming")
    resumed = begun[0] if resume and begun else None
    return training_config(mode, config, overrides, resumed=resumed, initial=initial)


def _require_free(folder: Path, folds: Sequence[int]) -> None:
    taken = [str(run) for fold in folds if RunFolder(run := fold_folder(folder, fold)).holds_a_run]
    if taken:
        raise DataError(
            f"{', '.join(taken)} already {'hold runs' if len(taken) > 1 else 'holds a run'}",
            hint="resume them, replace them by overwriting, or choose another folder",
        )


def _named(progress: Progress, fold: int, count: int) -> Progress:
    def tell(what: str, done: int, total: int) -> None:
        progress(f"fold {fold} ({count} in all): {what}", done, total)

    return tell
