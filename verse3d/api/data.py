"""The jobs about data, one function each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from verse3d.core.files import PathOrText, write_json
from verse3d.core.runtime import Progress, no_progress
from verse3d.data.cases import CaseIndex, Split, assign_splits, split_by_subject, write_index
from verse3d.data.checks import CheckReport, check_cases
from verse3d.data.fixes import write_fixes
from verse3d.data.layouts import discover, is_index, load_cases
from verse3d.data.phantom import write_phantom
from verse3d.data.survey import cache_path


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


def check(
    data: PathOrText,
    *,
    workers: int | None = 1,
    cache: bool = True,
    json: PathOrText | None = None,
    fixes: PathOrText | None = None,
    progress: Progress = no_progress,
) -> CheckReport:
    """Read every scan, mask and centroid file of an index or a folder and report what is wrong with them.

    Args:
        data: an index or a folder.
        workers: processes that read; 1 reads in this one, None takes as many as cores and memory allow. With more than
            one, a script needs the usual ``if __name__ == "__main__":`` around its calls.
        cache: keep what was measured beside the index (``cases.survey.jsonl``), so that the next check reads only
            what has changed. A folder has no cache.
        json: a file for all findings.
        fixes: a folder for masks that can be carried over to the grids of their scans, with a table ``fixes.csv`` for
            ``index``. Without it nothing but the cache is written.
        progress: told about every case that is done.

    Raises:
        DataError: there is no such index or folder, or no case in it.
        OutputError: findings or fixes cannot be written, or ``fixes`` holds a table already.
    """
    source = Path(data)
    cases = load_cases(source)
    kept = cache_path(source) if cache and is_index(source) else None
    report = check_cases(cases, progress, workers=workers, cache=kept)
    if json is not None:
        write_json(Path(json), report.to_dict())
    if fixes is not None:
        report = replace(report, fixed=write_fixes(cases, report.findings, Path(fixes)))
    return report
