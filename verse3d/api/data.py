"""The jobs about data, one function each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from verse3d.core.config import PlaneName, load_config
from verse3d.core.errors import DataError
from verse3d.core.files import PathOrText
from verse3d.core.runtime import Progress, no_progress
from verse3d.data.cases import CaseIndex, Split, assign_splits, split_by_subject, write_index
from verse3d.data.checks import CheckReport, check_cases
from verse3d.data.layouts import discover, load_cases
from verse3d.data.phantom import write_phantom
from verse3d.data.slicewriter import SliceReport, write_slices


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


def slices(
    data: PathOrText,
    *,
    out: PathOrText,
    plane: PlaneName | None = None,
    size: int | None = None,
    only_labelled: bool = False,
    config: PathOrText = "slices2d",
    overrides: Sequence[str] = (),
    split: Split | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SliceReport:
    """Write every slice of every case, as ``--mode 2d`` sees it, as an 8-bit PNG with a mask PNG beside it.

    Args:
        data: an index with splits, or a folder (whose undivided subjects are then divided by ``runtime.seed``).
        out: gets a folder per split and case, ``manifest.jsonl`` and ``config.yaml``.
        plane: "sagittal", "coronal", "axial" or "as-stored"; None takes that of the config.
        size: rows and columns; None takes those of the config.
        only_labelled: leave out slices without vertebrae.
        config: path or name of a YAML file.
        overrides: ``"section.key=value"`` on top of it.
        split: only the cases of that split.
        workers: cases that are cut at the same time.
        overwrite: replace slices that were made with other settings.
        progress: told about every case.

    Returns:
        A record per case; what is there already is kept, and cases that failed are listed and do not stop the others.

    Raises:
        ConfigError: the config holds mistakes.
        DataError: there is no case with a scan and a mask, or ``out`` holds something else.
        OutputError: the folder cannot be written to.
    """
    chosen = {"slices.plane": plane, "slices.size_pixels": size}
    settings = load_config(Path(config), [*overrides, *(f"{key}={value}" for key, value in chosen.items() if value)])
    cases = [case for case in divided(Path(data), settings.runtime.seed) if case.image and case.mask and case.split]
    wanted = [case for case in cases if split in (None, case.split)]
    if not wanted:
        raise DataError(f"{data} holds no case{f' of the {split} split' if split else ''} with both a scan and a mask")
    return write_slices(
        wanted,
        settings,
        Path(out),
        only_labelled=only_labelled,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def divided(data: Path, seed: int) -> CaseIndex:
    """The cases with splits. An index in which nobody is undivided is taken as it is, even without validation."""
    cases = load_cases(data)
    complete = [case for case in cases if case.image and case.mask]
    return cases if data.is_file() and all(case.split for case in complete) else split_by_subject(cases, seed=seed)
