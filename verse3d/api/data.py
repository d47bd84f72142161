"""What is there, and what is wrong with it: the index of a data set and its check."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText, write_json
from verse3d.core.logs import Progress, no_progress
from verse3d.core.nifti_header import NIFTI_SUFFIXES
from verse3d.data.cases import Split, write_index
from verse3d.data.index.archives import ARCHIVE_SUFFIX
from verse3d.data.index.build import IndexOptions, IndexReport, build_index
from verse3d.data.index.discover import is_index, load_cases
from verse3d.data.index.overrides import read_overrides
from verse3d.data.quality.checks import CheckReport, check_cases
from verse3d.data.quality.fixes import require_no_table, write_fixes
from verse3d.data.quality.survey import cache_path


def index(
    *roots: PathOrText,
    out: PathOrText,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.0,
    resplit: bool = False,
    assign: Mapping[str, Split] | None = None,
    folds: int = 0,
    exclude_gl: bool = False,
    overrides: Sequence[PathOrText] = (),
    unpack: PathOrText | None = None,
    automatic: Sequence[PathOrText] = (),
    progress: Progress = no_progress,
) -> IndexReport:
    """Find all cases below some folders, merge copies, divide them by subject, and write the list as JSON lines.

    Args:
        roots: folders, zips or single NIfTI files, in any of the layouts of ``verse3d.data.index.discover``.
        out: the list, e.g. ``cases.jsonl``.
        seed: decides who is drawn into validation, test and folds.
        validation: share of subjects for choosing the best epoch, where the data set does not say.
        test: share of subjects without a split that are kept for testing.
        resplit: ignore the split that the data set comes with.
        assign: subjects or cases that must go to a split, e.g. ``{"sub-verse008": "test"}``.
        folds: divide the cases to train on into so many folds as well; 0 makes none.
        exclude_gl: leave the "gl" subjects of VerSe'20 out.
        overrides: CSVs of corrections (see ``verse3d.data.index.overrides``).
        unpack: folder into which zips are unpacked first; without it their content is listed but cannot be read.
        automatic: folders whose masks were made by a program and not corrected: a training may ignore their borders
            (``labels.automatic_borders``).
        progress: told about every header and every file unpacked.

    Returns:
        The index, what of the VerSe release was found, and what was left out or is damaged.

    Raises:
        DataError: a root is missing, no case is found, an assigned name is unknown, or a CSV holds mistakes.
        OutputError: the list or an unpacked file cannot be written.
    """
    _refuse_data_name(Path(out))
    options = IndexOptions(
        unpack_to=None if unpack is None else Path(unpack),
        exclude_gl=exclude_gl,
        overrides=tuple(line for path in overrides for line in read_overrides(Path(path))),
        assign=assign or {},
        resplit=resplit,
        seed=seed,
        validation=validation,
        test=test,
        folds=folds,
        automatic=tuple(map(Path, automatic)),
    )
    report = build_index([Path(root) for root in roots], options, progress)
    write_index(Path(out), report.cases)
    return report


def _refuse_data_name(out: Path, source: Path | None = None) -> None:
    """A list must not take the place of a scan, a zip or the index that it was made from."""
    is_source = False
    if source is not None and out.exists() and source.exists():
        # By file, not by name: "./cases.jsonl" and a link to it are the same one.
        is_source = out.samefile(source)
    is_data = out.name.lower().endswith((*NIFTI_SUFFIXES, ARCHIVE_SUFFIX))
    if is_source or is_data:
        raise ConfigError(f"{out} is the name of data, and would be replaced", hint="choose another name for the list")


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
    if json is not None:
        # Before anything is read: a check of a large data set takes hours.
        _refuse_data_name(Path(json), source)
    if fixes is not None:
        require_no_table(Path(fixes))
    cases = load_cases(source)
    # A folder may be read-only, or somebody else's: only beside an index is anything kept.
    kept = cache_path(source) if cache and is_index(source) else None
    report = check_cases(cases, progress, workers=workers, cache=kept)
    if json is not None:
        write_json(Path(json), report.to_dict())
    if fixes is not None:
        report = replace(report, fixed=write_fixes(cases, report.findings, Path(fixes)))
    return report
