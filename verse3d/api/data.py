"""The jobs about data, one function each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.runtime import Progress, no_progress
from verse3d.data.cases import CaseIndex, Split, assign_splits, split_by_subject, write_index
from verse3d.data.checks import CheckReport, check_cases
from verse3d.data.convert import Conversion, convert_cases, nnunet_format, verse_format
from verse3d.data.layouts import discover, load_cases
from verse3d.data.phantom import write_phantom


def phantom(
    out: PathOrText, *, cases: int = 6, seed: int = 0, anomalies: bool = False, progress: Progress = no_progress
) -> tuple[Path, ...]:
    """Write synthetic spine CTs with masks, in VerSe's own layout. The same seed gives the same bytes.

    Args:
        out: folder for the three split folders.
        cases: how many scans; about a third of them go to the test split.
        seed: decides everything that is random.
        anomalies: let some cases have a sixth lumbar vertebra, a collapsed body, a screw ...
        progress: told about every case.

    Returns:
        The paths of the scans.

    Raises:
        DataError: ``cases`` is below 1, or the folder holds a data set already.
        OutputError: the folder cannot be written to.
    """
    done = 0

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        progress(f"phantom {name}", done, cases)

    return write_phantom(Path(out), cases=cases, seed=seed, anomalies=anomalies, on_case=on_case)


def index(
    *roots: PathOrText,
    out: PathOrText,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.0,
    resplit: bool = False,
    assign: Mapping[str, Split] | None = None,
) -> CaseIndex:
    """Find all cases below some folders, divide them by subject, and write the list as JSON lines.

    Args:
        roots: folders (or single NIfTI files).
        out: the list, e.g. ``cases.jsonl``.
        seed: decides who is drawn into validation and test where the data set does not say.
        validation: share of subjects for choosing the best epoch.
        test: share of subjects without a split that are kept for testing.
        resplit: ignore the split that the data set comes with.
        assign: subjects or cases that must go to a split, e.g. ``{"sub-verse008": "test"}``.

    Raises:
        DataError: a root is missing, no case is found, or an assigned name is unknown.
        OutputError: the list cannot be written.
    """
    found = discover([Path(root) for root in roots])
    if assign:
        found = assign_splits(found, assign)
    divided = split_by_subject(found, seed=seed, validation=validation, test=test, resplit=resplit)
    if assign and resplit:
        divided = assign_splits(divided, assign)
    write_index(Path(out), divided)
    return divided


def check(data: PathOrText, *, progress: Progress = no_progress) -> CheckReport:
    """Read every scan and mask of an index or a folder and report what is wrong with them.

    Raises:
        DataError: there is no such index or folder, or no case in it.
    """
    return check_cases(load_cases(Path(data)), progress)


def convert(
    data: PathOrText,
    *,
    to: Literal["nnunet", "verse"],
    out: PathOrText,
    links: bool = True,
    scheme: str | None = None,
    dataset_id: int | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Conversion:
    """Write an index as an nnU-Net v2 raw data set, or as VerSe's subject-based tree.

    Cases that cannot be used are left out and listed in the result and in ``conversion.json``.

    Args:
        data: an index or a folder.
        to: "nnunet" or "verse".
        out: folder; nnU-Net's ``Dataset001_VerSe`` is made in it.
        links: link to what needs no change rather than copy it.
        scheme: nnunet: "vertebrae" (default) or "binary".
        dataset_id: nnunet: the number of the data set, 1 by default.
        name: nnunet: its name, "VerSe" by default.
        overwrite: replace an earlier conversion in the same place.
        progress: told about every case.

    Raises:
        ConfigError: the layout is unknown, or an option does not fit it.
        DataError: there is no such index or folder, no case in it, or it lies in the output folder.
        OutputError: the output holds files that no conversion wrote, or cannot be written to.
    """
    if to not in ("nnunet", "verse"):
        raise ConfigError(f"layout {to!r} is unknown; expected nnunet or verse")
    if to == "verse" and (scheme, dataset_id, name) != (None, None, None):
        raise ConfigError("scheme, dataset id and name can be chosen for nnunet only, not for verse")
    cases = load_cases(Path(data))
    if to == "verse":
        form = verse_format(cases, Path(out))
    else:
        number, title = 1 if dataset_id is None else dataset_id, "VerSe" if name is None else name
        form = nnunet_format(cases, Path(out), scheme=scheme or "vertebrae", dataset_id=number, name=title)
    return convert_cases(cases, form, links=links, overwrite=overwrite, progress=progress)
