"""Pictures of what a model does: a case with truth and prediction side by side, and how the training went."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from verse3d.core.caseerrors import CASE_ERRORS, keep_or_raise, reason_of
from verse3d.core.logs import logger
from verse3d.core.paths import path_below
from verse3d.core.preview import read_preview
from verse3d.core.volume import read_labels
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask, require_same_grid
from verse3d.data.predictions import mask_path, read_predictions
from verse3d.evaluation.score_folder import UNION, Evaluation
from verse3d.report.figures import loss_curve, save_figure
from verse3d.report.overlay import overlay_figure
from verse3d.training.runfolder import history_of

LOSS_PICTURE = "loss.png"
_log = logger(__name__)


def draw_case(case: Case, mask: Path, picture: Path, *, title: str, scheme: str = "binary") -> Path:
    """CT, truth and prediction, a row each, in a sagittal, a coronal and an axial slice through the truth.

    Args:
        case: with scan and mask.
        mask: the prediction, on the grid of the scan.
        picture: the PNG to write.
        title: the heading.
        scheme: "vertebrae" colours and names the levels, "binary" shows vertebra or not.

    Raises:
        DataError: a file is missing or damaged, or on another grid.
        OutputError: the picture cannot be written.
    """
    scan = read_preview(case.image_path())
    # Without names all vertebrae have one colour: ids of a binary prediction would be taken for C1.
    binary = scheme != "vertebrae"
    shown = {"truth": read_mask(case), "prediction": read_labels(mask)}
    for volume in shown.values():
        require_same_grid(scan.volume, volume)
    masks = {name: (volume.array > 0 if binary else volume.array).astype(np.uint8) for name, volume in shown.items()}
    save_figure(overlay_figure(scan, masks, title=title, binary=binary), picture)
    return picture


def draw_folder(
    cases: Sequence[Case], masks: Path, folder: Path, *, titles: Mapping[str, str], model: Path | None, scheme: str
) -> tuple[Path, ...]:
    """One picture per case, ``<case>.png``, and ``loss.png`` if the run folder of the model is known.

    A case that cannot be drawn is logged and left out.

    Args:
        cases: what to draw.
        masks: the folder with their predictions.
        folder: for the pictures.
        titles: heading by case; else its name.
        model: the checkpoint that made the masks, or None.
        scheme: as in ``draw_case``.

    Raises:
        OutputError: the folder cannot be written to.
    """
    drawn = []
    for case in cases:
        title = titles.get(case.case, case.case)
        try:
            picture = path_below(folder, f"{case.case}.png")
            drawn.append(draw_case(case, mask_path(masks, case.case), picture, title=title, scheme=scheme))
        except CASE_ERRORS as error:
            keep_or_raise(error)
            _log.error("%s is not drawn: %s", case.case, reason_of(error))
    # The run folder may be gone, or be on another machine.
    if model is not None and (history := history_of(model)):
        save_figure(loss_curve(history), folder / LOSS_PICTURE)
        drawn.append(folder / LOSS_PICTURE)
    return tuple(drawn)


def draw_evaluation(result: Evaluation, cases: Iterable[Case], masks: Path, folder: Path) -> tuple[Path, ...]:
    """Every case that was scored, under its Dice, and the loss curve of the model named in ``predictions.json``.

    Raises:
        OutputError: the folder cannot be written to.
    """
    scores = {case.case: case.labels[UNION].dice for case in result.cases}
    drawn = [case for case in cases if case.case in scores and case.image]
    model = str(read_predictions(masks).about.get("model", ""))
    return draw_folder(
        drawn,
        masks,
        folder,
        titles={case: f"{case}: Dice {dice:.3f}" for case, dice in scores.items()},
        model=Path(model) if model else None,
        scheme=result.scheme,
    )
