"""A picture of a scan and its mask."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from verse3d.core.errors import ConfigError, DataError, GeometryError, OutputError
from verse3d.core.files import PathOrText
from verse3d.core.importing import uncollected
from verse3d.core.nifti_header import NIFTI_SUFFIXES
from verse3d.core.paths import composed
from verse3d.core.preview import Preview, read_preview
from verse3d.core.volume import Volume
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.index.discover import load_cases
from verse3d.data.pairs import relabelled, require_same_grid
from verse3d.data.schemes import scheme_of
from verse3d.report.appearance import is_label_map
from verse3d.report.doubts import Doubts, doubts_about

_LIST_AT_MOST = 12
_SAY_NOTHING = frozenset({"ct", "image", "img", "scan", "volume", "vol", "data", "mask", "seg", "labels"})
"""Names of files that do not tell one case from another."""


@dataclass(frozen=True)
class LookResult:
    """What ``look`` drew.

    Attributes:
        picture: the PNG.
        notes: what is unusual about the file or its mask; all of it is written in the picture too.
        centre_mm: world mm of the point through which the planes go.
    """

    picture: Path
    notes: tuple[str, ...]
    centre_mm: tuple[float, float, float]


def look(
    scan: PathOrText,
    *,
    out: PathOrText,
    mask: PathOrText | None = None,
    data: PathOrText | None = None,
    at: tuple[float, float, float] | None = None,
    level: str | None = None,
    window: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> LookResult:
    """Draw three planes of a scan with its mask: label colours, level names, orientation letters, scale bar.

    The file is read leniently: NaN, several volumes, single slices and any grey values are shown and said. A file that
    holds labels alone is shown as labels.

    Args:
        scan: a NIfTI file, a folder with a single case, or the name of a case in ``data``.
        out: the PNG to write, in a folder that is there.
        mask: a mask on the grid of the scan; None takes that of the case, if it has one.
        data: an index or a folder in which the case is found.
        at: world mm (RAS+) of the point to cut through.
        level: the vertebra to cut through, e.g. "L1"; None goes through the middle of the mask.
        window: the values shown black and white; None takes a bone window, or percentiles if the values are no HU.
        overwrite: replace a picture that is there.

    Raises:
        ConfigError: ``out`` is no PNG; ``at`` and ``level`` are both given; the window is no window; a case is named
            but no ``data``.
        DataError: the file or case is not there or unreadable; the point lies outside; the level is not in the mask.
        GeometryError: the mask is not on the grid of the scan.
        OutputError: the picture is there already, its folder is not, or it cannot be written.
    """
    path = Path(out)
    _require_free(path, overwrite=overwrite)
    if at is not None and level is not None:
        raise ConfigError("`at` and `level` cannot be combined", option="level")
    case = _named(Path(scan), str(scan), data)
    if mask is not None:
        # A mask that is named stands for itself: corrections of the case belong to the case's own mask.
        case = replace(case, mask=Path(mask), relabel=())
    shown = read_preview(case.image or case.mask_path())
    marked, alone = _labels(case, shown)
    with uncollected():
        # Not before: matplotlib takes a third of a second, and whoever mistypes a name should not wait for it.
        from verse3d.report.figures import save_figure
        from verse3d.report.look import DPI, look_figure
    labelled = case.mask or case.image
    # Marks come from the list of predictions beside the mask, if it is there.
    doubts = doubts_about(labelled) if labelled is not None else Doubts()
    drawn = look_figure(
        shown,
        mask=None if marked is None else marked.array,
        labels_alone=alone,
        title=case.case,
        at_mm=at,
        level=level,
        window=window,
        remarks=(*case.notes, *doubts.remarks),
        marks=doubts.marks,
        scheme=None if marked is None else scheme_of(marked),
    )
    save_figure(drawn.figure, path, dpi=DPI)
    x, y, z = drawn.centre_mm.tolist()
    return LookResult(path, drawn.notes, (x, y, z))


def _require_free(path: Path, *, overwrite: bool) -> None:
    """Who mistypes a name gets no new folder, and loses no picture."""
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"pictures are written as PNG, but {path} ends otherwise", hint="e.g. `out=look.png`", option="out"
        )
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} for {path.name}", hint="make it first, or name another")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already", hint="choose another name, or replace it with `overwrite`", option="overwrite"
        )


def _named(path: Path, name: str, data: PathOrText | None) -> Case:
    """The case that a path or a name stands for."""
    if path.is_file() or (data is None and name.lower().endswith(NIFTI_SUFFIXES)):
        # A file's name, with that of its folder where the name itself says nothing: "chest/ct.nii.gz"
        plain = path.name.split(".")[0].lower() in _SAY_NOTHING
        return Case(f"{path.absolute().parent.name}/{path.name}" if plain else path.name, path.name, path)
    if data is None and path.is_dir():
        return _only_case(path)
    if data is None:
        raise ConfigError(
            f"{name} is no file; to look at a case by its name, say where it is listed",
            hint=f"`verse3d.look({name!r}, data='cases.jsonl', out='look.png')`",
            option="data",
        )
    return _find(load_cases(Path(data)), name, Path(data))


def _only_case(folder: Path) -> Case:
    """The case in a folder that holds no other."""
    cases = load_cases(folder).cases
    if len(cases) > 1:
        names = ", ".join(case.case for case in cases[:_LIST_AT_MOST])
        raise DataError(
            f"{folder} holds {len(cases)} cases: {names}{' ...' if len(cases) > _LIST_AT_MOST else ''}",
            hint=f"name one of them, for example `verse3d.look({cases[0].case}, data={folder})`",
        )
    return cases[0]


def _find(cases: CaseIndex, name: str, data: Path) -> Case:
    # A subject with a single case is as good as the name of the case.
    by_subject = [case for case in cases if composed(case.subject) == composed(name)]
    found = [case for case in cases if composed(case.case) == composed(name)] or by_subject
    if len(found) == 1:
        return found[0]
    # Of too many the ones that were meant; of none the ones that there are.
    names = [case.case for case in found or cases]
    if found:
        raise DataError(f"subject {name} has {len(found)} cases: {', '.join(names)}", hint="name one of them")
    near = difflib.get_close_matches(name, names, n=3) or names[:_LIST_AT_MOST]
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    raise DataError(f"{data} has no case {name}", hint=f"there are {', '.join(near)}{more}")


def _labels(case: Case, shown: Preview) -> tuple[Volume | None, bool]:
    """The mask on the grid of what is shown, and whether that is the mask itself."""
    if case.image is None:
        return _corrected(case, shown), True
    if case.mask is None:
        alone = is_label_map(shown)
        return (_corrected(case, shown), True) if alone else (None, False)
    mask = read_preview(case.mask)
    try:
        # Checked here, where the hint can name both files.
        require_same_grid(shown.volume, mask.volume)
    except GeometryError as error:
        raise GeometryError(
            error.message, hint=f"to see each of them alone: verse3d look {case.image} and verse3d look {case.mask}"
        ) from error
    return _corrected(case, mask), False


def _corrected(case: Case, mask: Preview) -> Volume:
    return relabelled(replace(mask.volume, array=mask.labels()), case.relabel)
