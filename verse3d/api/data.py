"""The jobs about data, one function each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText, write_json
from verse3d.core.logs import Progress, no_progress
from verse3d.core.nifti_header import NIFTI_SUFFIXES
from verse3d.data.cases import Split, write_index
from verse3d.data.convert import Conversion, convert_cases, nnunet_format, verse_format
from verse3d.data.index.archives import ARCHIVE_SUFFIX
from verse3d.data.index.build import IndexOptions, IndexReport, build_index
from verse3d.data.index.discover import is_index, load_cases
from verse3d.data.index.overrides import read_overrides
from verse3d.data.quality.checks import CheckReport, check_cases
from verse3d.data.quality.fixes import require_no_table, write_fixes
from verse3d.data.quality.survey import cache_path
from verse3d.downloads.job import DownloadReport, download_archives
from verse3d.downloads.mirrors import MIRRORS, RELEASE_SPLITS, YEARS, MirrorName, archives, sources
from verse3d.phantoms import write_phantom


def phantom(
    out: PathOrText,
    *,
    cases: int = 6,
    seed: int = 0,
    anomalies: bool = False,
    masks: Sequence[PathOrText] | PathOrText | None = None,
    workers: int | None = 1,
    progress: Progress = no_progress,
) -> tuple[Path, ...]:
    """Write synthetic spine CTs with masks, in VerSe's own layout. The same seed gives the same bytes.

    Args:
        out: folder for the three split folders.
        cases: how many scans; about a third of them go to the test split.
        seed: decides everything that is random.
        anomalies: let some cases have a sixth lumbar vertebra, a collapsed body, a screw ...
        masks: an index, or folders or files of VerSe masks, with or without their scans. Their vertebrae are drawn,
            deformed, in a synthetic body, instead of mathematical ones.
        workers: processes that draw; 1 draws in this one, None takes as many as cores and memory allow.
        progress: told about every case.

    Returns:
        The paths of the scans.

    Raises:
        DataError: ``cases`` is below 1, the folder holds a data set already, or there is no mask to use.
        ConfigError: masks and anomalies are both asked for.
        OutputError: the folder cannot be written to.
    """
    done = 0

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        progress(f"phantom {name}", done, cases)

    return write_phantom(
        Path(out),
        cases=cases,
        seed=seed,
        anomalies=anomalies,
        masks=None if masks is None else _masks_in(masks),
        workers=workers,
        on_case=on_case,
    )


def _masks_in(sources: Sequence[PathOrText] | PathOrText) -> list[Path]:
    """All masks of an index or of folders, in the order of their cases."""
    roots = [Path(sources)] if isinstance(sources, str | os.PathLike) else [Path(root) for root in sources]
    found = [case.mask for case in load_cases(roots) if case.mask is not None]
    if not found:
        raise DataError(
            f"there is no mask in {', '.join(map(str, roots))}",
            hint="masks are called e.g. NAME_seg.nii.gz, or lie in a folder called labels",
        )
    return found


def download(
    out: PathOrText,
    *,
    years: Sequence[int] = YEARS,
    splits: Sequence[str] = RELEASE_SPLITS,
    base_url: str | None = None,
    mirrors: Sequence[MirrorName] | None = None,
    verify: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> DownloadReport:
    """Fetch the archives of VerSe that are not there yet, going on where an earlier call was interrupted.

    This is the only function that uses the network. Its addresses are those that public sources name; they were not
    followed while verse3d was written. An archive that cannot be fetched is recorded and does not stop the others.

    Args:
        out: folder for the archives and the list of their hashes, ``verse3d-downloads.lock.json``.
        years: 19, 20 or both.
        splits: "training", "validation", "test".
        base_url: address of a folder with the archives, to be asked instead of the mirrors.
        mirrors: "s3" and "osf", in the order in which they are asked; None for both.
        verify: compute the hashes of archives that are there even if their length and time have not changed.
        overwrite: download again what is there but not as it should be.
        progress: told about every piece, in MB (10^6 bytes).

    Raises:
        ConfigError: a year, split, mirror or address makes no sense, or both mirrors and an address are given.
        DataError: the list is damaged.
        OutputError: the folder cannot be written to, or the disk is too small.
    """
    if base_url is not None and mirrors:
        raise ConfigError(
            "base_url and mirrors cannot be combined", hint="a base address is asked instead of the mirrors"
        )
    wanted = archives(years, splits)
    # All addresses are made before the first is asked, so a wrong mirror is told at once.
    where = {archive: sources(archive, base_url, mirrors or MIRRORS) for archive in wanted}
    return download_archives(
        wanted, Path(out), where.__getitem__, verify=verify, overwrite=overwrite, progress=progress
    )


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
