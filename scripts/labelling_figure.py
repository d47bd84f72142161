"""Draw the figure of docs/labelling.md: from parts to bones to a reading of the spine.

    python scripts/labelling_figure.py docs/images/labelling.png

Parts, bones and names are computed by the package from a phantom's true mask. The probabilities of levels in the third
panel are made up (the truth, blurred over its neighbours): a drawing of what a network at 4 mm gives, not its result.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from verse3d.core.labels import BONES, VERTEBRAE, vertebra
from verse3d.labelling.bones import BoneMap
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.instances import group_bones
from verse3d.labelling.vertebrae import NamedBones, name_bones
from verse3d.model.parts import parts_of
from verse3d.phantoms import PhantomCase, make_case

CASE = (3, 2)
BLUR_LEVELS = 1.1
_LEVEL_NAMES = [label.name for label in VERTEBRAE]


def main() -> None:
    """Compute and draw."""
    case = make_case(*CASE)
    parts = _parts(case)
    bones = group_bones(parts, case.geometry)
    evidence = _made_up_evidence(case, bones)
    named = name_bones(bones, case.geometry, evidence)
    figure = Figure(figsize=(13, 4.6), layout="constrained", dpi=110)
    one, two, three, four = figure.subplots(1, 4, width_ratios=[1, 1, 1.7, 1])
    numbers = np.zeros_like(parts)
    numbers[bones.box] = bones.numbers
    _draw_slice(one, case, parts, ["#d9a441", "#7a4b12"], "1  parts: vertebra, core")
    _draw_slice(two, case, numbers, _colours(len(bones.bones)), "2  bones: no names yet")
    _draw_evidence(three, evidence, bones, named)
    _draw_names(four, case, named)
    figure.savefig(sys.argv[1] if len(sys.argv) > 1 else Path("labelling.png"))


def _parts(case: PhantomCase) -> NDArray[np.uint8]:
    network_id = np.zeros(256, np.uint8)
    for number, label in enumerate(BONES.labels, start=1):
        network_id[label.id] = number
    return parts_of(torch.from_numpy(network_id[case.mask])[None, None], case.geometry.spacing_mm)[0, 0].numpy()


def _made_up_evidence(case: PhantomCase, bones: BoneMap) -> LevelEvidence:
    truth = case.mask[bones.box]
    rows = []
    for bone in bones.bones:
        level = _LEVEL_NAMES.index(vertebra(int(np.bincount(truth[bones.numbers == bone.number]).argmax())).name)
        shares = np.exp(-0.5 * ((np.arange(len(VERTEBRAE)) - level) / BLUR_LEVELS) ** 2) + 0.002
        rows.append(np.log(shares / shares.sum()))
    return LevelEvidence(np.array(rows), np.full(len(rows), 0.99))


def _draw_slice(axes: Axes, case: PhantomCase, labels: NDArray[np.uint8], colours: list[str], title: str) -> None:
    hu, shown = (_sagittal(case, array) for array in (case.image_hu, labels))
    axes.imshow(hu, cmap="gray", vmin=-300, vmax=1000, aspect=_aspect(case))
    axes.imshow(
        np.ma.masked_equal(shown, 0),
        cmap=ListedColormap(colours),
        vmin=1,
        vmax=max(2, len(colours)),
        alpha=0.75,
        interpolation="nearest",
        aspect=_aspect(case),
    )
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_axis_off()


def _sagittal(case: PhantomCase, array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The slice through the bodies with the head up and the front on the left, whatever the axes are."""
    axes = ["RL", "AP", "SI"]
    order = [next(n for n, code in enumerate(case.geometry.axis_codes) if code in pair) for pair in axes]
    turned = array.transpose(order)
    for axis, towards in enumerate("RPI"):
        if case.geometry.axis_codes[order[axis]] != towards:
            turned = np.flip(turned, axis)
    sums = (np.flip(case.mask.transpose(order), ()) > 0).sum(axis=(1, 2))
    middle = int(np.average(np.arange(len(sums)), weights=sums))
    if case.geometry.axis_codes[order[0]] != "R":
        middle = len(sums) - 1 - middle
    return turned[middle].T


def _aspect(case: PhantomCase) -> float:
    spacing = dict(zip(case.geometry.axis_codes, case.geometry.spacing_mm, strict=True))
    up = next(mm for code, mm in spacing.items() if code in "SI")
    front = next(mm for code, mm in spacing.items() if code in "AP")
    return up / front


def _draw_evidence(axes: Axes, evidence: LevelEvidence, bones: BoneMap, named: NamedBones) -> None:
    row_of = {bone.number: row for row, bone in enumerate(bones.bones)}
    number_of = {int(named.ids[number]): number for number in row_of}
    rows = [row_of[number_of[one.id]] for one in named.vertebrae]
    axes.imshow(np.exp(evidence.levels[rows]), cmap="Blues", aspect="auto")
    path = [_LEVEL_NAMES.index(one.name) for one in named.vertebrae]
    axes.plot(path, range(len(path)), "o-", color="#c2410c", markerfacecolor="none", markersize=9, linewidth=1.5)
    axes.set_xticks(range(len(_LEVEL_NAMES)), _LEVEL_NAMES, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), [f"bone {bones.bones[row].number}" for row in rows], fontsize=9)
    axes.set_title("3  what is known of each bone, and the path", fontsize=11, loc="left")


def _draw_names(axes: Axes, case: PhantomCase, named: NamedBones) -> None:
    ids = [one.id for one in named.vertebrae]
    order = np.zeros(256, np.uint8)
    order[ids] = np.arange(1, len(ids) + 1)
    _draw_slice(axes, case, order[case.mask], _colours(len(ids)), "4  named vertebrae")
    shown = _sagittal(case, order[case.mask])
    for one in named.vertebrae:
        rows, columns = np.nonzero(shown == order[one.id])
        if rows.size:
            axes.text(columns.min() - 3, rows.mean(), one.name, color="white", ha="right", va="center", fontsize=9)


def _colours(count: int) -> list[str]:
    return [mpl.colors.to_hex(mpl.colormaps["tab20"](number % 20)) for number in range(count)]


if __name__ == "__main__":
    main()
