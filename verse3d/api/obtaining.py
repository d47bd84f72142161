"""Data for those who have none: synthetic scans, and VerSe from its mirrors."""

import os
from collections.abc import Sequence
from pathlib import Path

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.data.index.discover import load_cases
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
