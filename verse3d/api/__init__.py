"""One function per job. The command line calls exactly these; so can a notebook.

Example:
    >>> import verse3d
    >>> verse3d.train(data="cases.jsonl", out="runs/a")  # doctest: +SKIP
    >>> verse3d.predict("scan.nii.gz", model="runs/a/best.pt", out="masks")  # doctest: +SKIP
"""

from verse3d.api.comparison import compare
from verse3d.api.data import check, convert, download, index, phantom
from verse3d.api.demo import DemoResult, demo
from verse3d.api.models import LABEL_FILE, evaluate, predict, train
from verse3d.api.pictures import LookResult, StatsResult, look, stats
from verse3d.api.slicing import slices

__all__ = [
    "LABEL_FILE",
    "DemoResult",
    "LookResult",
    "StatsResult",
    "check",
    "compare",
    "convert",
    "demo",
    "download",
    "evaluate",
    "index",
    "look",
    "phantom",
    "predict",
    "slices",
    "stats",
    "train",
]
