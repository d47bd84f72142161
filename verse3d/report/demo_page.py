"""What the demo made, as the sections of one page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from verse3d.core.wording import number_text
from verse3d.data.quality.checks import CheckReport
from verse3d.evaluation.case_values import METRICS
from verse3d.evaluation.comparison import Comparison
from verse3d.evaluation.score_folder import UNION, Evaluation
from verse3d.evaluation.verdict import verdicts
from verse3d.metrics.identification import names
from verse3d.metrics.scores import LabelScore
from verse3d.report.compare_text import score_cell
from verse3d.report.page import PagePicture, PageSection, Table

TITLE = "verse3d: the demo"
INTRODUCTION = (
    "Everything here was made on this machine from synthetic scans: spines that a program drew, so that nothing about "
    "real patients follows from the figures. The steps are those of a real study."
)
_SHOWN_METRICS = ("dice", "hd95_mm", "assd_mm", "volume_error_ml", "consistency", "seconds", "peak_rss_mb")
_MOST_PICTURES = 4


def starter_section(evaluation: Evaluation, seconds: float, picture: Path) -> PageSection:
    """The weights that come with verse3d, on a scan that they have never seen."""
    took = "" if math.isnan(seconds) else f" It took {seconds:.1f} s."
    return PageSection(
        "A first prediction, without any training",
        (
            "The starter weights have learnt from five real CT scans and from synthetic ones. Here they segment a "
            f"synthetic one that they have not seen.{took} What they are and where they fail is in their model card.",
        ),
        tables=(score_table(evaluation),),
        pictures=(PagePicture(picture, "The CT alone, the truth, and what the starter weights found."),),
    )


def data_section(report: CheckReport, splits: Mapping[str, int]) -> PageSection:
    """How many cases there are, and what is wrong with them."""
    divided = ", ".join(f"{count} {name}" for name, count in splits.items())
    counts = ", ".join(f"{count} {severity}s" for severity, count in report.counts.items())
    findings = [[one.case, one.severity, one.message] for one in report.findings]
    return PageSection(
        "The data, and whether they can be trusted",
        (f"Cases: {divided}. What the check found: {counts}.",),
        tables=(Table(("case", "severity", "what"), findings),) if findings else (),
    )


def training_section(
    history: Sequence[Mapping[str, float]], best_epoch: int, best_dice: float, loss: Path
) -> PageSection:
    """How long the network learnt, and how the loss fell."""
    # A run that was stopped in its first epoch has no row yet.
    last = history[-1] if history else {}
    epochs = f"{len(history)} epoch{'s' if len(history) != 1 else ''}"
    text = f"{epochs} in {last.get('minutes', math.nan):.1f} minutes."
    if not math.isnan(best_dice):
        text += f" Epoch {best_epoch} is kept: validation Dice {best_dice:.3f}."
    picture = PagePicture(loss, "Loss of the training patches, and Dice of whole validation scans.")
    return PageSection("Training", (text,), pictures=(picture,) if loss.is_file() else ())


def scores_section(evaluation: Evaluation, pictures: Sequence[Path]) -> PageSection:
    """The unseen scans: scores, names of the vertebrae where the model gives them, and pictures."""
    shown = tuple(PagePicture(path, f"{path.stem}: the CT alone, the truth, the prediction.") for path in pictures)
    text = "Scans that were neither trained on nor used to choose an epoch, scored on their own grids."
    tables = [score_table(evaluation)]
    if evaluation.cards:
        tables.append(_names_table(evaluation))
    return PageSection("Unseen scans", (text,), tables=tables, pictures=shown[:_MOST_PICTURES])


def comparison_section(comparison: Comparison, figure: Path) -> PageSection:
    """Two approaches on the same cases: the verdict in words, the means, the pairs."""
    said = [verdict.headline for verdict in verdicts(comparison)]
    columns = ("mean ± sd", *(standing.contestant.name for standing in comparison.standings))
    rows = [
        [METRICS[key].title, *(score_cell(standing, key) for standing in comparison.standings)]
        for key in _SHOWN_METRICS
    ]
    picture = PagePicture(figure, "A line per case: both approaches on the same scan.")
    return PageSection("Against another approach", said, tables=(Table(columns, rows),), pictures=(picture,))


def next_section(commands: Sequence[str]) -> PageSection:
    """What to type next."""
    text = "Look at the masks in a viewer, watch the training, and then do the same with scans of your own."
    return PageSection("Go on", (text,), commands=commands)


def score_table(evaluation: Evaluation) -> Table:
    """A row per case for all vertebrae together."""
    columns = {"dice": ("Dice", 3), "hd95_mm": ("HD95 mm", 1), "assd_mm": ("ASSD mm", 2)}
    columns["volume_difference_ml"] = ("volume difference ml", 1)

    def cells(score: LabelScore) -> list[str]:
        return [number_text(getattr(score, name), digits) for name, (_, digits) in columns.items()]

    rows = [[case.case, *cells(case.labels[UNION])] for case in evaluation.cases]
    return Table(("case", *(title for title, _ in columns.values())), rows)


def _names_table(evaluation: Evaluation) -> Table:
    """How many vertebrae carry their own name, by VerSe's rule."""
    rows = []
    for case, card in evaluation.cards.items():
        found = card.identification
        missed = " ".join(names(found.missed)) or "none"
        rows.append([case, f"{len(found.identified)} of {found.true}", missed])
    return Table(("case", "vertebrae named right", "missed"), rows)
