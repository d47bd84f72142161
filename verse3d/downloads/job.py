"""Fetching the VerSe release: whole archives under their own names, or nothing; and a list of what was fetched.

Nothing here runs unless ``download`` is called.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import requests

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import make_folder, output_error
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.paths import path_below
from verse3d.core.zips import opened_zip
from verse3d.downloads.lock import LOCK_FILE, Locked, read_lock, write_lock
from verse3d.downloads.mirrors import Archive, Source
from verse3d.downloads.parts import NoAnswerError, Part, TransferError, remove_part
from verse3d.downloads.transfer import Patience, fetch

_log = logger(__name__)


@dataclass(frozen=True)
class DownloadRecord:
    """How it went with an archive.

    Attributes:
        archive: what was wanted.
        status: "downloaded", "kept" (it was there, and as it should be) or "failed".
        locked: what the list says about it now; None if it failed.
        reasons: why it failed, one per mirror.
        hint: what to do about that.
    """

    archive: Archive
    status: Literal["downloaded", "kept", "failed"]
    locked: Locked | None = None
    reasons: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class DownloadReport:
    """The records of all archives, and the folder that holds them."""

    folder: Path
    records: tuple[DownloadRecord, ...]

    @property
    def failed(self) -> tuple[Archive, ...]:
        """The archives that are still missing."""
        return tuple(record.archive for record in self.records if record.status == "failed")


def download_archives(
    wanted: Sequence[Archive],
    folder: Path,
    sources_of: Callable[[Archive], Sequence[Source]],
    *,
    verify: bool = False,
    overwrite: bool = False,
    patience: Patience | None = None,
    progress: Progress = no_progress,
) -> DownloadReport:
    """Fetch archives that are not there yet. One that fails does not stop the others.

    Args:
        wanted: the archives.
        folder: where they go, with the list ``verse3d-downloads.lock.json``.
        sources_of: the addresses to ask for an archive, in order.
        verify: compute the hash of what is there even if its length and time are those of the list.
        overwrite: download again what is there but not as it should be.
        patience: time-outs, attempts and pauses.
        progress: told about every piece, in MB (10^6 bytes).

    Raises:
        DataError: the list is damaged.
        OutputError: the folder cannot be written to, or the disk is too small for what is missing.
    """
    make_folder(folder)
    keeper = _Keeper(folder, read_lock(folder / LOCK_FILE), verify=verify, overwrite=overwrite)
    # look -> fetch what is missing -> one record each, in the order in which they were wanted
    present = {archive: record for archive in wanted if (record := keeper.look(archive)) is not None}
    missing = [archive for archive in wanted if archive not in present]
    patience = patience or Patience()
    _require_room(folder, missing, sources_of, patience)
    fetched = {}
    for archive in missing:
        fetched[archive] = _fetch_archive(archive, sources_of(archive), keeper, patience, progress)
    return DownloadReport(folder, tuple((present | fetched)[archive] for archive in wanted))


@dataclass
class _Keeper:
    """The folder, its list, and the mirrors that did not answer: those are asked only once for every other archive."""

    folder: Path
    locked: dict[str, Locked]
    verify: bool
    overwrite: bool
    deaf: set[str] = field(default_factory=set)

    def look(self, archive: Archive) -> DownloadRecord | None:
        """The record of an archive that need not or must not be downloaded; None if it must."""
        path = path_below(self.folder, archive.name)
        if not path.exists():
            return None
        try:
            # length and time as in the list?   yes: kept, nothing is read
            #                                   no:  hash it; as in the list: kept, else refused
            reason = self._judge(path)
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror or error}"
        if not reason:
            return DownloadRecord(archive, "kept", self.locked[archive.name])
        if self.overwrite:
            _log.warning("%s; it will be replaced", reason)
            return None
        hint = "`overwrite` downloads it again and then replaces it; or move it away"
        return DownloadRecord(archive, "failed", reasons=(reason,), hint=hint)

    def _judge(self, path: Path) -> str:
        """What is wrong with a file that is there, or nothing; then it stands in the list."""
        known, now = self.locked.get(path.name), path.stat()
        if known and not self.verify and (known.bytes, known.mtime_ns) == (now.st_size, now.st_mtime_ns):
            return ""
        if known and known.bytes != now.st_size:
            return f"{path} has {now.st_size} bytes, but {known.bytes} were recorded on {known.recorded}"
        sha256 = _sha256(path)
        if known and known.sha256 != sha256:
            return f"{path} was changed: its sha256 is {sha256}, but {known.sha256} was recorded on {known.recorded}"
        if not known and not is_archive(path):
            return f"{path} is no readable zip file, and verse3d did not download it"
        self.record(path, known or Locked(path.name, now.st_size, sha256, "", "", _now(), 0))
        return ""

    def record(self, path: Path, locked: Locked) -> Locked:
        """Put an archive into the list, with its present time of modification."""
        self.locked[path.name] = replace(locked, mtime_ns=path.stat().st_mtime_ns)
        write_lock(self.folder / LOCK_FILE, self.locked)
        return self.locked[path.name]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip with a readable table of contents that names at least one file."""
    try:
        with opened_zip(path) as archive:
            entries = archive.opened.infolist()
            return any(not entry.is_dir() for entry in entries)
    except DataError:
        return False


def _fetch_archive(
    archive: Archive, sources: Sequence[Source], keeper: _Keeper, patience: Patience, progress: Progress
) -> DownloadRecord:
    """Ask one mirror after the other."""
    reasons: list[str] = []
    for source in sources:
        # A mirror that was silent may have come back, but it is not waited for again.
        ours = replace(patience, attempts=1) if source.mirror in keeper.deaf else patience
        try:
            locked = _fetch_from(source, archive, keeper, ours, progress)
        except TransferError as error:
            if isinstance(error, NoAnswerError):
                keeper.deaf.add(source.mirror)
            reasons.append(f"{source.mirror}: {error.message}")
            _log.debug("%s: %s", archive.name, error.message)
        except (OutputError, OSError) as error:  # another mirror would not help
            wrapped = error if isinstance(error, OutputError) else output_error(keeper.folder / archive.name, error)
            return DownloadRecord(archive, "failed", reasons=(*reasons, wrapped.message), hint=wrapped.hint)
        else:
            for other in sources:
                # What other mirrors had begun is of no use any more.
                remove_part(_part_path(keeper.folder, archive, other))
            return DownloadRecord(archive, "downloaded", locked)
    return DownloadRecord(archive, "failed", reasons=tuple(reasons))


def _fetch_from(source: Source, archive: Archive, keeper: _Keeper, patience: Patience, progress: Progress) -> Locked:
    path = path_below(keeper.folder, archive.name)

    def on_bytes(done: int, total: int | None) -> None:
        progress(f"{archive.name} (MB)", done // 10**6, (total or max(done, archive.rough_bytes)) // 10**6)

    def has_room(coming: int) -> None:
        _refuse_if_full(keeper.folder, coming, archive.name)

    with Part(_part_path(keeper.folder, archive, source), on_bytes) as part:
        fetch(source.url, part, patience=patience, has_room=has_room, is_whole=is_archive)
        origin, sha256 = part.origin, part.digest.hexdigest()
        _require_trust(part, source, sha256, keeper.locked.get(path.name))
        # Renamed only now that it is whole and trusted: under its own name there is never half an archive.
        part.path.replace(path)
        part.remove()
    etag = origin.etag if origin else ""
    return keeper.record(path, Locked(path.name, part.size, sha256, source.url, etag, _now(), 0))


def _require_trust(part: Part, source: Source, sha256: str, known: Locked | None) -> None:
    """Refuse, and delete, what is whole but not an archive, or not the one that came from there before."""
    if not is_archive(part.path):
        part.remove()
        raise TransferError(f"{source.url} sent wrong bytes: {part.size} of them, but no readable zip file")
    if known and source.steady and known.url == source.url and known.sha256 != sha256:
        part.remove()
        raise TransferError(
            f"{source.url} sent another file than on {known.recorded}: its sha256 is {sha256}, not {known.sha256}"
        )


def _part_path(folder: Path, archive: Archive, source: Source) -> Path:
    """One part per mirror: the bytes of two mirrors are never mixed, and a dead mirror costs nothing that is there."""
    return path_below(folder, f"{archive.name}.{source.mirror}.part")


def _require_room(
    folder: Path, missing: Sequence[Archive], sources_of: Callable[[Archive], Sequence[Source]], patience: Patience
) -> None:
    """Refuse before anything is fetched if all that is missing does not fit."""
    coming, deaf = 0, set[str]()
    for archive in missing:
        # Asked before anything is fetched: an answer costs a second, a full disk an hour.
        first = sources_of(archive)[0]
        length = None if first.mirror in deaf or not first.steady else _length(first.url, patience)
        if length is None:
            deaf.add(first.mirror)
        part = _part_path(folder, archive, first)
        coming += max(0, (length or archive.rough_bytes) - (part.stat().st_size if part.exists() else 0))
    if missing:
        _refuse_if_full(folder, coming, ", ".join(archive.name for archive in missing))


def _length(url: str, patience: Patience) -> int | None:
    """What a server says about the length of a file, if it answers."""
    try:
        answer = requests.head(url, timeout=(patience.connect_s, patience.read_s), allow_redirects=True)
    except requests.RequestException:
        return None
    length = answer.headers.get("Content-Length", "")
    return int(length) if answer.status_code == 200 and length.isdigit() else None


def _refuse_if_full(folder: Path, coming: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if coming > free:
        raise OutputError(
            f"{what}: {coming / 1e9:.2f} GB are to come, but only {free / 1e9:.2f} GB are free in {folder}",
            hint="free some space, choose another folder, or fetch less with `years` and `splits`; "
            "unpacking needs as much again",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
