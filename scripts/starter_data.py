"""Draw the synthetic scans that the starter weights learn from, and write the indexes of all stages.

    python scripts/starter_data.py DATA WORK

DATA holds verse-mini/ (sub-verse005 to 008), auto-labelled/ (chest_ct, example_ct) and masks-only/ (VerSe masks without
their CT). WORK gets the scans and indexes: ``stage1.jsonl`` (synthetic ones and chest_ct), ``stage2-SUBJECT.jsonl`` for
each expert scan (real ones without it, and a few synthetic ones), ``stage2-none.jsonl`` (all of them), ``stage3-...``
(the same without phantoms), ``scout.jsonl`` and ``refine.jsonl``. Masks of the four expert scans are not drawn, so that
leaving one out leaves it out. example_ct always chooses the epoch, where one is chosen.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib

import verse3d
from verse3d.phantoms.body import make_body

BODIES, PLAIN, ODD, DRAWN = 12, 20, 10, 24
BODY_SEED, BODY_MM = 77, 2.0
EXPERTS, CHOOSES, CHEST = ("sub-verse005", "sub-verse006", "sub-verse007", "sub-verse008"), "example_ct", "chest_ct"
_Row = dict[str, Any]


def main() -> None:
    """Draw, index, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    data, work = options.data, options.work
    draw(data, work, options.workers)
    real = rows([data / "verse-mini", data / "auto-labelled"], work, "")
    plain, odd, bodies, drawn = (rows([work / name], work, f"{name}-") for name in ("plain", "odd", "bodies", "drawn"))
    chest = [row for row in real if row["case"] == CHEST]
    chooses = [{**row, "split": "validation"} for row in real if row["case"] == CHOOSES]
    write(work / "stage1.jsonl", [*plain, *odd, *bodies, *drawn, *chest, *chooses])
    few = [*bodies[:2], plain[1], odd[3], *drawn[:3]]
    for left_out in ("none", *EXPERTS):
        experts = [row for row in real if row["case"] in EXPERTS and row["case"] != left_out]
        write(work / f"stage2-{left_out}.jsonl", [*experts, *chest, *few, *chooses])
        write(work / f"stage3-{left_out}.jsonl", [*experts, *chest, *drawn[:3], *chooses])
    write(work / "scout.jsonl", [*real, *drawn[:10]])
    write(work / "refine.jsonl", [row for row in real if row["case"] != CHOOSES])


def draw(data: Path, work: Path, workers: int) -> None:
    """Phantoms in parts, with and without anomalies; real vertebrae in drawn scans; whole bodies."""
    verse3d.phantom(work / "plain", cases=PLAIN, seed=77, workers=workers)
    verse3d.phantom(work / "odd", cases=ODD, seed=78, anomalies=True, workers=workers)
    masks = [data / "masks-only", data / "auto-labelled"]
    verse3d.phantom(work / "drawn", masks=masks, cases=DRAWN, seed=5, workers=workers)
    with get_context("spawn").Pool(workers) as pool:
        pool.map(partial(draw_body, work / "bodies"), range(BODIES), chunksize=1)


def draw_body(folder: Path, number: int) -> None:
    """A phantom with a full field of view as a pair of NIfTI files."""
    body, name = make_body(BODY_SEED, number, BODY_MM), f"body{number:03d}"
    (folder / name).mkdir(parents=True, exist_ok=True)
    for array, what in ((body.mask, "seg-vert_msk"), (body.image_hu, "ct")):
        nib.save(nib.Nifti1Image(array, body.geometry.affine), folder / name / f"{name}_{what}.nii.gz")


def rows(folders: Sequence[Path], work: Path, prefix: str) -> list[_Row]:
    """The cases of some folders, all for training; the prefix keeps phantoms of the same name apart."""
    out = work / f"{prefix or 'real-'}cases.jsonl"
    verse3d.index(*folders, out=out)
    cases = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return [
        {**case, "case": prefix + case["case"], "subject": prefix + case["subject"], "split": "train"}
        for case in cases
        if case.get("mask") and case.get("image")
    ]


def write(path: Path, cases: Sequence[_Row]) -> None:
    """An index."""
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    print(f"{path}: {len(cases)} cases")


if __name__ == "__main__":
    main()
