"""Name the vertebrae of phantoms: how many names are right, how many doubts are justified, and what each part gives.

    python benchmarks/naming_phantoms.py --scout scout.pt                         # names alone, bones from the truth
    python benchmarks/naming_phantoms.py --model runs/names --direct runs/direct  # from voxels to names

With ``--scout`` (weights of ``benchmarks/scout.py``) the bones are grouped from the true mask and only their names are
judged: minutes on one core. With ``--model`` (a run of the config ``vertebrae``) the bones are those of its network,
too, and ``--direct`` (a run of ``vertebrae-direct``) is the model to compare with. Persons have 11 to 13 thoracic and
5 or 6 lumbar vertebrae, with ``--anomaly l5-missing`` four; every one is shown whole and in random parts of three
vertebrae or more.

Parts that show the border C7|T1 or T12|L1, or the last lumbar vertebra with what is below it, can be named, unless the
person has one vertebra too many or too few and the part shows one end only of what would have to be counted. All others
must be ambiguous with the truth among the readings. Judged are the vertebrae that lie wholly in the part.
Rows: direct head per vertebra (most voxels), direct head with a vote per bone, the network at 4 mm with a vote per
bone (no sequence), the sequence, and the same bones with their true names. Every row has Dice from voxels, on the grid
of the phantom, of the mask that ``predict`` would write: of all vertebrae together (over the whole view, and within the
labelled span of ``metrics.bones``) and the mean over vertebrae, where a wrong name or none counts 0. As in VerSe the
truth leaves out vertebrae that the view cuts, so what a mask shows of them counts against the first of these figures.
The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from naming_views import View, views
from numpy.typing import NDArray

from verse3d.core.config import parse_config
from verse3d.core.labels import BONES, VERTEBRAE, vertebra
from verse3d.core.volume import Volume
from verse3d.data.samples.grid import windowing
from verse3d.inference.loading import open_predictor
from verse3d.inference.naming import LevelMaps, SequenceNaming, bone_evidence, named_by_truth, without_partial
from verse3d.inference.predictor import Predictor
from verse3d.labelling.bones import BoneMap
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.instances import group_bones
from verse3d.labelling.vertebrae import NamedBones, name_bones
from verse3d.metrics.bones import score_bones
from verse3d.model.parts import parts_of
from verse3d.model.scout import ScoutNetwork

_COLUMNS = ("id_rate", "all_right", "volume_dice", "volume_dice_in_span", "vertebra_dice")
_SETTINGS = {"labels": {"scheme": "vertebrae", "naming": "sequence"}, "grid": {"spacing_mm": 1.5}}


@dataclass(frozen=True, eq=False)
class Row:
    """What one way of naming makes of a view: the id of each vertebra in ``View.whole``, 0 for none, and the mask."""

    ids: Sequence[int]
    mask: NDArray[np.uint8]


@dataclass(eq=False)
class Tally:
    """Names of one way of naming, over all views."""

    hits: list[bool] = field(default_factory=list)
    all_right: list[bool] = field(default_factory=list)
    volume_dice: list[float] = field(default_factory=list)
    volume_dice_in_span: list[float] = field(default_factory=list)
    vertebra_dice: list[float] = field(default_factory=list)

    def add(self, row: Row, view: View) -> None:
        """What one way of naming makes of a view."""
        hits = [one == other for one, other in zip(row.ids, view.whole, strict=True)]
        self.hits += hits
        self.all_right.append(all(hits))
        scores = score_bones(row.mask, view.truth, view.geometry)
        self.volume_dice.append(scores.union_dice)
        self.volume_dice_in_span.append(scores.union_dice_in_span)
        self.vertebra_dice += scores.dice.values()

    def summary(self) -> dict[str, float]:
        """Shares and means; of vertebrae for ``id_rate`` and ``vertebra_dice``, of views for the others."""
        columns = {"id_rate": self.hits, **{name: getattr(self, name) for name in _COLUMNS[1:]}}
        return {name: round(float(np.mean(values)), 4) for name, values in columns.items()}


def main() -> None:
    """Draw, name, count, print."""
    options = _options()
    torch.set_num_threads(options.threads)
    namer, predictor = _namer(options)
    direct = open_predictor([options.direct], torch.device("cpu")) if options.direct else None
    tallies: dict[str, Tally] = {}
    doubts: dict[str, list[bool]] = {key: [] for key in ("ambiguous", "truth_listed", "silent", "anomaly")}
    for view in views(options.persons, options.parts, options.spacing, options.anomaly):
        _judge(view, namer, predictor, direct, tallies=tallies, doubts=doubts)
        print(
            view.name, f"{len(view.whole)} vertebrae", {key: one.summary() for key, one in tallies.items()}, flush=True
        )
    print(f"{'':40}", *(f"{name:>20}" for name in _COLUMNS))
    for key, one in sorted(tallies.items()):
        print(f"{key:40}", *(f"{value:20.4f}" for value in one.summary().values()))
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
    parser.add_argument("--anomaly", choices=("l6", "t13", "t12-missing", "l5-missing"), help="of all persons")
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
    ids = named.ids[owner].tolist()
    voted = _by_bone({bone.number: _voted(evidence, row) for row, bone in enumerate(bones.bones)})
    shapes = named_by_truth(bones, view.truth)
    rows = {
        "vote per bone at 4 mm": Row(voted[owner].tolist(), _written(bones, voted, view)),
        "sequence": Row(ids, _written(bones, without_partial(named).ids, view)),
        "bones, true names": Row([one if (shapes == one).any() else 0 for one in view.whole], shapes),
    }
    if direct is not None:
        rows |= _direct_rows(direct, view, bones, owner)
    for key, row in rows.items():
        tallies.setdefault(f"{key} ({group})", Tally()).add(row, view)
    _count_doubts(view, named, ids, doubts)


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


def _voted(evidence: LevelEvidence, row: int) -> int:
    return VERTEBRAE[int(evidence.levels[row].argmax())].id if evidence.seen else 0


def _by_bone(id_of: Mapping[int, int]) -> NDArray[np.uint8]:
    """The id of each bone by its number, (256,)."""
    ids = np.zeros(256, np.uint8)
    ids[list(id_of)] = list(id_of.values())
    return ids


def _written(bones: BoneMap, ids: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    mask = np.zeros_like(view.mask)
    bones.write(ids, mask)
    return mask


def _direct_rows(direct: Predictor, view: View, bones: BoneMap, owner: Sequence[int]) -> dict[str, Row]:
    labels = direct.label(_volume(view))
    inside = labels[bones.box]
    voted = _by_bone({bone.number: _most(inside[bones.numbers == bone.number]) for bone in bones.bones})
    by_vertebra = [_most(labels[view.mask == one]) for one in view.whole]
    return {
        "direct head": Row(by_vertebra, labels),
        "direct head, vote per bone": Row(voted[owner].tolist(), _written(bones, voted, view)),
    }


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
