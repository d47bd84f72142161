"""Training a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.api.starting_scout import StartingScout, starting_scout
from verse3d.core.config import Config, changed_config, load_config
from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.labels import Label
from verse3d.core.logs import Progress, no_progress
from verse3d.core.preview import Preview
from verse3d.core.runtime import DeviceName, choose_device
from verse3d.core.volume import Volume
from verse3d.data.cases import CaseIndex
from verse3d.data.index.deduplicate import merge_series
from verse3d.data.index.discover import load_cases
from verse3d.data.samples.store import store_beside
from verse3d.data.splits import hold_out_fold, split_by_subject
from verse3d.model.locate import model_file
from verse3d.model.modes import get_mode, require_suitable
from verse3d.report.confusion import confusion_figure
from verse3d.report.figures import figure_array
from verse3d.report.overlay import overlay_figure
from verse3d.training.fit import FitResult, fit
from verse3d.training.initial import InitialWeights, read_initial
from verse3d.training.ranks import joined, rank_device, started_ranks
from verse3d.training.runfolder import RunFolder, find_run
from verse3d.training.session import FitOptions


def train(
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
        config: path or name of a YAML file, or a ``Config``; None takes the mode's own, or that of a resumed run
            or of ``from_model``.
        from_model: begin with the weights of this model file, or with "starter", those that come with verse3d.
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
        CheckpointError: ``from_model`` is damaged, or of another network.
        TrainingError: the loss is no longer a number.
    """
    if resume and overwrite:
        raise ConfigError("`resume` and `overwrite` cannot be combined", option="resume")
    if resume and from_model is not None:
        raise ConfigError(
            "`resume` goes on with the run's own weights, so no other model can be begun with",
            hint="begin a new run in another folder",
            option="resume",
        )
    initial = None if from_model is None else read_initial(model_file(from_model))
    settings = training_config(mode, config, overrides, resumed=Path(out) if resume else None, initial=initial)
    cases = divided(Path(data), settings.runtime.seed)
    if fold is not None:
        cases = hold_out_fold(cases, fold)
    rank, count, local_rank = started_ranks()
    device_here = rank_device(choose_device(device), local_rank, count)
    # None for the store that a run has noted.
    noted = resume and RunFolder(Path(out)).store_note.is_file()
    prepared = Path(store) if store is not None else None if noted else store_beside(Path(data))
    chosen = config is not None or resume or initial is not None
    slow = "" if chosen else _slow_without_gpu(settings.mode, device_here)
    begun = StartingScout(None) if resume else starting_scout(settings, initial, cases)
    with joined(device_here) as ranks:
        options = FitOptions(
            device=device_here,
            resume=resume,
            overwrite=overwrite,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            paint=_paint,
            paint_confusion=_paint_confusion,
            progress=progress if rank == 0 else no_progress,
            store=prepared,
            ranks=ranks,
            initial=initial,
            initial_scout=begun.scout,
            remarks=tuple(filter(None, (slow, begun.remark))),
        )
        return fit(settings, cases, Path(out), options)


def _slow_without_gpu(mode: str, device: torch.device) -> str:
    """What to do where a mode's default config would take a CPU hours; "" elsewhere."""
    default, quick = get_mode(mode).default_config, get_mode(mode).without_gpu
    if device.type != "cpu" or not quick:
        return ""
    return f"without a GPU {default} takes hours; `config` {quick} is made for half an hour on two cores"


def divided(data: Path, seed: int) -> CaseIndex:
    """The cases with splits. An index in which nobody is undivided is taken as it is, even without validation."""
    cases = load_cases(data)
    if data.is_file():
        complete = [case for case in cases if case.image and case.mask]
        if all(case.split for case in complete):
            return cases
    else:
        # A folder may hold a scan twice, and copies may not come into two splits.
        cases = CaseIndex(merge_series(cases.cases, {})[0])
    return split_by_subject(cases, seed=seed)


def training_config(
    mode: str | None,
    config: PathOrText | Config | None,
    overrides: Sequence[str],
    *,
    resumed: Path | None = None,
    initial: InitialWeights | None = None,
) -> Config:
    """The settings of a training, checked as far as that goes without data.

    Args:
        mode, config, overrides: as in ``train``.
        resumed: a run folder; without ``config`` its settings are taken.
        initial: a model to begin with; without ``config`` or a run, its settings are taken.
    """
    default = get_mode(mode or "3d").default_config
    if isinstance(config, Config):
        if overrides:
            raise ConfigError("overrides go with a config file; change the Config itself instead")
        settings = config
    elif config is None and resumed is not None:
        settings = load_config(find_run(resumed).config, overrides)
    elif config is None and initial is not None:
        settings = changed_config(initial.config.to_dict(), overrides, source=f"the config of {initial.path}")
    else:
        settings = load_config(Path(config) if config is not None else default, overrides)
    if mode and settings.mode != mode:
        what = f"{resumed} is a run of" if resumed is not None and config is None else "the config is for"
        raise ConfigError(
            f"{what} mode {settings.mode}, not {mode}", hint="leave `mode` out, or name the right one", option="mode"
        )
    require_suitable(settings)
    return settings


def _paint(
    scan: Volume, masks: Mapping[str, NDArray[np.uint8]], labels: Sequence[Label], title: str
) -> NDArray[np.uint8]:
    """A validation case for TensorBoard; the truth comes first, so the slices stay while the prediction changes."""
    return figure_array(overlay_figure(Preview(scan), masks, title=title, binary=len(labels) == 1))


def _paint_confusion(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    return figure_array(confusion_figure(counts))
