"""Scores of masks against the truth."""

from pathlib import Path

from verse3d.core.files import PathOrText, make_folder
from verse3d.core.logs import Progress, no_progress
from verse3d.data.cases import CaseIndex, Split
from verse3d.data.index.discover import load_cases
from verse3d.evaluation.foreign import read_label_map
from verse3d.evaluation.score_folder import Evaluation, evaluate_folder


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
        # matplotlib takes a second to load, and most evaluations draw nothing.
        from verse3d.report.pictures import draw_evaluation

        draw_evaluation(result, chosen, Path(pred), make_folder(Path(pictures)))
    return result
