"""The jobs about data, one function each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.runtime import Progress, no_progress
from verse3d.data.cases import CaseIndex, Split, assign_splits, split_by_subject, write_index
from verse3d.data.checks import CheckReport, check_cases
from verse3d.data.download import DownloadReport, download_archives
from verse3d.data.layouts import discover, load_cases
from verse3d.data.mirrors import MIRRORS, RELEASE_SPLITS, YEARS, MirrorName, archives, sources
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
            "base_url and mirrors exclude each other", hint="a base address is asked instead of the mirrors"
        )
    wanted = archives(years, splits)
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
