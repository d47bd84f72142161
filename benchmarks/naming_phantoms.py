"""Name the vertebrae of phantoms: how many names are right, how many doubts are justified, and what each part gives.

    python benchmarks/naming_phantoms.py --scout scout.pt                         # names alone, bones from the truth
    python benchmarks/naming_phantoms.py --model runs/names --direct runs/direct  # from voxels to names

With ``--scout`` (weights of ``benchmarks/scout.py``) the bones are grouped from the true mask and only their names are
judged: minutes on one core. With ``--model`` (a run of the config ``vertebrae``) the bones are those of its network,
too, and ``--direct`` (a run of ``vertebrae-direct``) is the model to compare with. Persons have 11 to 13 thoracic and
4 to 6 lumbar vertebrae; every one is shown whole and in random parts of three vertebrae or more.

Parts that show the border C7|T1 or T12|L1, or the last lumbar vertebra with what is below it, can be named, unless the
person has one vertebra too many or too few and the part shows one end only of what would have to be counted. All others
must be ambiguous with the truth among the readings. Judged are the vertebrae that lie wholly in the part.
Rows: direct head per vertebra (most voxels), direct head with a vote per bone, the network at 4 mm with a vote per
bone (no sequence), and the sequence. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.config import parse_config
from verse3d.core.geometry import Geometry
from verse3d.core.labels import BONES, VERTEBRAE, vertebra
from verse3d.core.volume import Volume
from verse3d.data.samples.grid import windowing
from verse3d.inference.loading import open_predictor
from verse3d.inference.naming import LevelMaps, SequenceNaming, bone_evidence
from verse3d.inference.predictor import Predictor
from verse3d.labelling.bones import BoneMap
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.instances import group_bones
from verse3d.labelling.vertebrae import NamedBones, name_bones
from verse3d.model.parts import parts_of
from verse3d.model.scout import ScoutNetwork
from verse3d.phantoms.body import Body, make_body

SEED = 4711
"""Of persons that no training sees: ``benchmarks/scout.py`` and trainings draw others."""
LEAST_VERTEBRAE = 3
_COUNTED = {
    "l6": {"T12", "L1", "L6"},
    "t13": {"C7", "T1", "T13", "L1"},
    "t12-missing": {"C7", "T1", "T11", "L1"},
}
"""What must be in view for an anomaly to be: both ends of what is counted."""
_SETTINGS = {"labels": {"scheme": "vertebrae", "naming": "sequence"}, "grid": {"spacing_mm": 1.5}}


@dataclass(frozen=True, eq=False)
class View:
    """A part of a person.

    Attributes:
        name: of the person and the part.
        image_hu, mask, geometry: int16 and VerSe ids (I, J, K), and their grid.
        whole: VerSe ids of the vertebrae that lie wholly in it, from head to feet.
        anomaly: what is unusual and in view; "" for nothing.
        decidable: whether a border that names start from is in view.
    """

    name: str
    image_hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    geometry: Geometry
    whole: tuple[int, ...]
    anomaly: str
    decidable: bool


@dataclass(eq=False)
class Tally:
    """Names of one way of naming, over all views."""

    right: int = 0
    vertebrae: int = 0
    all_right: list[bool] = field(default_factory=list)

    def add(self, names: Sequence[int], truth: Sequence[int]) -> None:
        """The ids that true vertebrae got."""
        hits = [one == other for one, other in zip(names, truth, strict=True)]
        self.right += sum(hits)
        self.vertebrae += len(hits)
        self.all_right.append(all(hits))

    def summary(self) -> dict[str, float]:
        """Shares."""
        return {
            "id_rate": round(self.right / max(1, self.vertebrae), 4),
            "all_right": round(float(np.mean(self.all_right)), 4) if self.all_right else float("nan"),
        }


def main() -> None:
    """Draw, name, count, print."""
    options = _options()
    torch.set_num_threads(options.threads)
    namer, predictor = _namer(options)
    direct = open_predictor([options.direct], torch.device("cpu")) if options.direct else None
    tallies: dict[str, Tally] = {}
    doubts: dict[str, list[bool]] = {key: [] for key in ("ambiguous", "truth_listed", "silent", "anomaly")}
    for view in _views(options):
        _judge(view, namer, predictor, direct, tallies=tallies, doubts=doubts)
        print(
            view.name, f"{len(view.whole)} vertebrae", {key: one.summary() for key, one in tallies.items()}, flush=True
        )
    print(f"{'':28} {'id-rate':>8} {'all right':>10}")
    for key, one in sorted(tallies.items()):
        print(f"{key:28} {one.summary()['id_rate']:8.4f} {one.summary()['all_right']:10.4f}")
    shares = {key: round(float(np.mean(values)), 4) if values else None for key, values in doubts.items()}
    print(json.dumps({"rows": {key: one.summary() for key, one in tallies.items()}, **shares}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scout", type=Path, help="weights of the network at 4 mm; bones are true then")
    parser.add_argument("--model", type=Path, help="model named by sequence: bones and levels are its own")
    parser.add_argument("--direct", type=Path, help="model with a channel for each level, to compare with")
    parser.add_argument("--persons", type=int, default=12)
    parser.add_argument("--parts", type=int, default=4, help="random parts of each person, beside the whole")
    parser.add_argument("--spacing", type=float, default=2.5, help="of the phantoms, mm")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if (options.scout is None) == (options.model is None):
        parser.error("give --scout or --model")
    return options


def _namer(options: argparse.Namespace) -> tuple[SequenceNaming, Predictor | None]:
    if options.model:
        predictor = open_predictor([options.model], torch.device("cpu"), keep_partial=True)
        return predictor.naming or SequenceNaming(), predictor
    network = ScoutNetwork(parse_config(_SETTINGS).scout.channels)
    network.load_state_dict(torch.load(options.scout, weights_only=True))
    return SequenceNaming([network.eval()], keeps_partial=True), None


def _views(options: argparse.Namespace) -> Iterator[View]:
    for number in range(options.persons):
        body = make_body(SEED, number, options.spacing)
        random = np.random.default_rng([SEED, number])
        ids = [label.id for label in VERTEBRAE if (body.mask == label.id).any()]
        planes = {one: np.flatnonzero((body.mask == one).any(axis=(0, 1))) for one in ids}
        yield _view(body, f"person {number}, whole", planes, 0, body.mask.shape[2])
        for part in range(options.parts):
            count = int(random.integers(LEAST_VERTEBRAE, 10))
            first = int(random.integers(0, len(ids) - count + 1))
            # k grows towards the head: the lowest vertebra begins the part, a little is shown beyond both ends
            margin = random.integers(1, 1 + int(12 / options.spacing), 2)
            low = max(0, int(planes[ids[first + count - 1]][0]) - int(margin[0]))
            high = min(body.mask.shape[2], int(planes[ids[first]][-1]) + 1 + int(margin[1]))
            yield _view(body, f"person {number}, part {part}", planes, low, high)


def _view(body: Body, name: str, planes: dict[int, NDArray[np.intp]], low: int, high: int) -> View:
    whole = tuple(one for one, at in planes.items() if low <= at[0] and at[-1] < high)
    names = [vertebra(one).name for one in whole]
    last = [vertebra(one).name for one in planes][-1]
    below_mm = (planes[vertebra(last).id][0] - low) * body.geometry.spacing_mm[2]
    regions = {one[0] for one in names}
    start, stop = (0, 0, low), (*body.geometry.shape[:2], high)
    return View(
        name,
        np.ascontiguousarray(body.image_hu[:, :, low:high]),
        np.ascontiguousarray(body.mask[:, :, low:high]),
        body.geometry.cropped(start, stop),
        whole,
        body.anomaly if body.anomaly and _COUNTED[body.anomaly] <= set(names) else "",
        _can_be_counted(body.anomaly, names)
        and (len(regions) > 1 or "C1" in names or (last in names and below_mm >= 10.0)),
    )


def _can_be_counted(anomaly: str | None, names: Sequence[str]) -> bool:
    """Whether the names follow from what is in view, in a person with an anomaly.

    The lowest vertebra with ribs is T12 to anybody who does not see where T1 is, and the one above the sacrum is L5 to
    anybody who does not see the last rib, however many there are.
    """
    regions = {name[0] for name in names}
    if anomaly in ("t13", "t12-missing"):
        return "C7" in names or "T" not in regions
    return anomaly != "l6" or "T12" in names or "L" not in regions


def _judge(
    view: View,
    namer: SequenceNaming,
    predictor: Predictor | None,
    direct: Predictor | None,
    *,
    tallies: dict[str, Tally],
    doubts: dict[str, list[bool]],
) -> None:
    bones, levels = _bones_and_levels(view, namer, predictor)
    evidence = bone_evidence(bones, view.geometry, levels)
    named = name_bones(bones, view.geometry, evidence)
    owner = _owners(bones, view)
    group = "decidable" if view.decidable else "open"
    rows = {
        "vote per bone at 4 mm": [_voted(evidence, bones, one) for one in owner],
        "sequence": [int(named.ids[one]) for one in owner],
    }
    if direct is not None:
        rows |= _direct_rows(direct, view, bones, owner)
    for key, ids in rows.items():
        tallies.setdefault(f"{key} ({group})", Tally()).add(ids, view.whole)
    _count_doubts(view, named, rows["sequence"], doubts)


def _bones_and_levels(
    view: View, namer: SequenceNaming, predictor: Predictor | None
) -> tuple[BoneMap, LevelMaps | None]:
    if predictor is None:
        network_id = np.zeros(256, np.uint8)
        for number, label in enumerate(BONES.labels, start=1):
            network_id[label.id] = number
        ids = torch.from_numpy(network_id[view.mask])[None, None]
        parts = parts_of(ids, view.geometry.spacing_mm)[0, 0].numpy()
        image = windowing(parse_config(_SETTINGS).grid)(view.image_hu.astype(np.float32))
        return group_bones(parts, view.geometry), namer.look(image, view.geometry)
    image, grid = predictor.prepare(_volume(view))
    answer, seen = predictor.segment(image, grid, view.geometry, predictor.settings)
    return group_bones(answer.mask(), view.geometry), seen.levels


def _volume(view: View) -> Volume:
    header = nib.Nifti1Image(view.mask, view.geometry.affine).header
    return Volume(view.image_hu, view.geometry, header, Path(view.name))


def _owners(bones: BoneMap, view: View) -> list[int]:
    """For each whole vertebra the number of the bone that covers most of it; 0 if none does."""
    truth = view.mask[bones.box]
    counts = [np.bincount(bones.numbers[truth == one], minlength=256) for one in view.whole]
    return [int(count[1:].argmax()) + 1 if count[1:].any() else 0 for count in counts]


def _voted(evidence: LevelEvidence, bones: BoneMap, number: int) -> int:
    row = next((row for row, bone in enumerate(bones.bones) if bone.number == number), None)
    return 0 if row is None or not evidence.seen else VERTEBRAE[int(evidence.levels[row].argmax())].id


def _direct_rows(direct: Predictor, view: View, bones: BoneMap, owner: Sequence[int]) -> dict[str, list[int]]:
    labels = direct.label(_volume(view))
    inside = labels[bones.box]
    by_vertebra = [_most(labels[view.mask == one]) for one in view.whole]
    by_bone = [_most(inside[bones.numbers == one]) if one else 0 for one in owner]
    return {"direct head": by_vertebra, "direct head, vote per bone": by_bone}


def _most(ids: NDArray[np.uint8]) -> int:
    counts = np.bincount(ids, minlength=256)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def _count_doubts(view: View, named: NamedBones, ids: Sequence[int], doubts: dict[str, list[bool]]) -> None:
    right = list(ids) == list(view.whole)
    doubts["silent"].append(not right and not named.ambiguous)
    if view.anomaly and view.decidable:
        doubts["anomaly"].append(right)
    if not view.decidable:
        wanted = [vertebra(one).name for one in view.whole]
        listed = any(set(wanted) <= set(names) for _, names in named.readings)
        doubts["ambiguous"].append(named.ambiguous)
        doubts["truth_listed"].append(listed)


if __name__ == "__main__":
    main()
