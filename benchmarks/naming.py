"""Name the vertebrae of key-point files and say how many names are right; or fit the priors anew.

    python benchmarks/naming.py --keypoints FILE.jsonl.gz                     # with the shipped priors
    python benchmarks/naming.py --keypoints FILE.jsonl.gz --priors OTHER.npz
    python benchmarks/naming.py --keypoints TRAINING.jsonl.gz --cross-validate # five folds by patient
    python benchmarks/naming.py --keypoints TRAINING.jsonl.gz --fit OUT.npz    # fit, and the threshold by five folds
    python benchmarks/naming.py --keypoints TRAINING.jsonl.gz --fit OUT.npz --leave-out sub-verse005 sub-verse007

Patients whose scans are judged elsewhere are left out: their own spines must not be among the priors.

The format is that of the ImFusion VID data set as one JSON line per scan (``verse3d.labelling.keypoints``). The last
line printed is one JSON object: counts of scans and vertebrae, and shares from 0 to 1. Ambiguous scans are scored with
their first reading. A few minutes on one core.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from verse3d.labelling.crossval import Judged, judge_by_folds, scores_by_folds, threshold
from verse3d.labelling.fitting import fit_priors
from verse3d.labelling.keypoints import SpineDetections, read_keypoints
from verse3d.labelling.naming import name_spines
from verse3d.labelling.priors import SHIPPED, load_priors, save_priors
from verse3d.labelling.scoring import ScanScore, score_names, summarise_names


def main() -> None:
    """Do what the options ask for and print the scores as JSON."""
    options = _options()
    spines = _without(read_keypoints(options.keypoints), options.leave_out)
    if options.fit:
        scores = _fit(spines, options.fit)
    elif options.cross_validate:
        scores = scores_by_folds(_judged(spines))
    else:
        priors = load_priors(options.priors)
        scores = [score_names(spine, name_spines(spine.found, priors)) for spine in spines]
    print(json.dumps({key: round(value, 4) for key, value in summarise_names(scores).items()}))


def _without(spines: Sequence[SpineDetections], subjects: Sequence[str]) -> list[SpineDetections]:
    """All spines but those of some patients; one that has no spine may be a slip of the pen."""
    if unknown := sorted(set(subjects) - {spine.subject for spine in spines}):
        raise SystemExit(f"no spine is of {', '.join(unknown)}")
    return [spine for spine in spines if spine.subject not in subjects]


def _fit(spines: Sequence[SpineDetections], target: Path) -> list[ScanScore]:
    """Fit to all spines; the threshold and the scores come from the folds."""
    judged = _judged(spines)
    certain = threshold([each for fold in judged for each in fold])
    save_priors(fit_priors(spines, certain=certain), target)
    print(
        f"{target}: {target.stat().st_size / 1000:.0f} kB, certain from {certain:.3f} on; scores by cross-validation:"
    )
    return scores_by_folds(judged)


def _judged(spines: Sequence[SpineDetections]) -> list[list[Judged]]:
    def say(fold: int, certainty: float, scans: int) -> None:
        print(f"fold {fold}: {scans} scans, mean certainty {certainty:.3f}", flush=True)

    return judge_by_folds(spines, report=say)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keypoints", type=Path, required=True, help="JSON lines, plain or packed with gzip")
    parser.add_argument("--priors", type=Path, default=SHIPPED, help="what is known of spines (default: as shipped)")
    parser.add_argument("--cross-validate", action="store_true", help="five folds by patient")
    parser.add_argument("--fit", type=Path, metavar="OUT.npz", help="fit priors to the file and write them there")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="SUBJECT", help="patients not to use at all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
