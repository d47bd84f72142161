"""Converted models, kept beside the checkpoint: whole and as written, or not used.

``best.pt`` gets a folder ``best.openvino`` with one folder per key: a hash of the weights, the config, the shape of a
window and all versions. Of a checkpoint that was replaced nothing is used, and its folders are removed. Where the
checkpoint's folder cannot be written to, and for the starter weights, that folder lies in the user's cache, e.g.
``~/.cache/verse3d/openvino``: an installed package is not the place for files that its uninstaller does not know.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from platformdirs import user_cache_path

from verse3d.core.errors import DataError, Verse3dError
from verse3d.core.files import sha256_of, write_json
from verse3d.core.logs import logger
from verse3d.core.paths import TEMPORARY_PREFIX
from verse3d.core.readers import Record, Text, read_record
from verse3d.inference.backends.engine import WEIGHTS, XML
from verse3d.inference.backends.parity import Parity
from verse3d.model.checkpoint import Checkpoint
from verse3d.model.starter import starter_folder
from verse3d.version import __version__

FORMAT, FORMAT_VERSION = "verse3d openvino cache", 3
MANIFEST, _EARLIER_MANIFEST = "openvino.json", "conversion.json"
"""The latter is that of version 1, whose models are not used any more."""
_STALE_SECONDS = 3600.0
_log = logger(__name__)


class _Manifest(Record):
    """What is written beside a converted model."""

    format: Text
    checkpoint_sha256: Text
    sha256: dict[str, Text]


class _Measured(Record):
    """How near a converted model came, and on which processor."""

    cpu: Text
    parity: dict[str, Any]


@dataclass(frozen=True)
class ModelCache:
    """The converted models of one checkpoint, for windows of one shape.

    Attributes:
        folder: of all models of the checkpoint file.
        checkpoint_sha256: of its weights and config.
        shape: of a window, (n, ...).
        versions: of OpenVINO and PyTorch, and the processor; a model is used with the same versions only, its parity
            on the same processor only.
    """

    folder: Path
    checkpoint_sha256: str
    shape: tuple[int, ...]
    versions: dict[str, str]

    @classmethod
    def of(cls, path: Path, checkpoint_sha256: str, shape: Sequence[int], versions: dict[str, str]) -> Self:
        """Of the checkpoint at ``path``."""
        return cls(cls.folder_for(path), checkpoint_sha256, tuple(shape), versions)

    @staticmethod
    def folder_for(path: Path) -> Path:
        """Where the models of the checkpoint at ``path`` are kept: beside it, or in the user's cache."""
        beside = path.with_suffix(".openvino")
        installed = path.resolve().parent == starter_folder().resolve()
        if not installed and os.access(beside if beside.is_dir() else path.absolute().parent, os.W_OK):
            return beside
        # Checkpoints of the same name in different folders get folders of their own.
        place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
        return user_cache_path("verse3d", appauthor=False) / "openvino" / f"{path.stem}-{place}"

    @property
    def entry(self) -> Path:
        """The folder of this very model."""
        # Without the processor: a model is the same on all of them, only its parity is not.
        made_by = {name: version for name, version in self.versions.items() if name != "cpu"}
        what = [FORMAT_VERSION, __version__, self.checkpoint_sha256, self.shape, made_by]
        return self.folder / hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]

    def load(self) -> tuple[bytes, bytes] | None:
        """The XML and the weights if they are there and as they were written."""
        if not (self.entry / MANIFEST).is_file():
            return None
        try:
            expected = read_record(self.entry / MANIFEST, _Manifest).sha256
            # Read once, hashed, and handed on: what was checked is what is used.
            contents = [(self.entry / name).read_bytes() for name in (XML, WEIGHTS)]
            found = [hashlib.sha256(content).hexdigest() for content in contents]
            if found == [expected[XML], expected[WEIGHTS]]:
                return contents[0], contents[1]
            reason = "its content is not what was written"
        except (DataError, OSError, KeyError) as error:
            reason = str(error)
        _log.warning("the OpenVINO model in %s is damaged and converted again: %s", self.entry, reason)
        self.discard()
        return None

    def store(self, write: Callable[[Path], None]) -> bool:
        """Keep what ``write`` puts into a folder, whole or not at all; says whether a model is there now.

        Two programs may do so at the same time: the first one's stays.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{os.getpid()}-", dir=self.folder))
        except OSError as error:
            self._say_not_kept(error)
            return False
        try:
            write(temporary)
            write_json(temporary / MANIFEST, self._manifest(temporary))
            for name in (XML, WEIGHTS):
                with (temporary / name).open("rb") as handle:
                    os.fsync(handle.fileno())
            try:
                temporary.rename(self.entry)
            except OSError:
                if not self._is_there():  # else another program was quicker
                    raise
        except (OSError, Verse3dError, RuntimeError) as error:
            self._say_not_kept(error)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        # Remove what killed programs left behind, and models of an earlier checkpoint or in an earlier format
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else []:
            if _is_stale(path) or _is_outdated(path, self.checkpoint_sha256):
                shutil.rmtree(path, ignore_errors=True)
        return self._is_there()

    def discard(self) -> None:
        """Remove this model. What cannot be removed is left, and found damaged again next time."""
        # Renamed first: whoever looks meanwhile finds either all of it or nothing.
        aside = self.folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        with contextlib.suppress(OSError):
            self.entry.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def parity(self, precision: str) -> Parity | None:
        """How near the model came to PyTorch on this processor, if that was measured."""
        path = self._parity_file(precision)
        if not path.is_file():
            return None
        try:
            content = read_record(path, _Measured)
            parity = Parity.from_dict(content.parity)
        except DataError:  # measured again
            return None
        return parity if (content.cpu, parity.precision) == (self.versions["cpu"], precision) else None

    def remember(self, parity: Parity) -> None:
        """Keep a measurement, if the model itself is kept."""
        if not self._is_there():
            return
        path = self._parity_file(parity.precision)
        content = {"cpu": self.versions["cpu"], "parity": parity.to_dict()}
        with contextlib.suppress(Verse3dError):
            write_json(path, content)

    def _parity_file(self, precision: str) -> Path:
        return self.entry / f"parity-{precision}.json"

    def _is_there(self) -> bool:
        return (self.entry / MANIFEST).is_file()

    def _manifest(self, folder: Path) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "verse3d": __version__,
            "checkpoint_sha256": self.checkpoint_sha256,
            "shape": self.shape,
            "versions": self.versions,
            "sha256": {name: sha256_of(folder / name) for name in (XML, WEIGHTS)},
        }

    def _say_not_kept(self, error: Exception) -> None:
        _log.info("the OpenVINO model cannot be kept in %s and is converted each time: %s", self.folder, error)


def content_sha256(checkpoint: Checkpoint) -> str:
    """A hash of all that decides what a model computes: its config and its weights, not the file around them."""
    settings = json.dumps(checkpoint.method.settings, sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    for name, weight in sorted(checkpoint.network.items()):
        # Name, type and shape as well: the same bytes under another name are another network.
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        numbers = weight.detach().cpu().contiguous().flatten()
        digest.update(numbers.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_stale(path: Path) -> bool:
    if not path.name.startswith(TEMPORARY_PREFIX):
        return False
    try:
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    except OSError:  # another program was quicker
        return False


def _is_outdated(path: Path, checkpoint_sha256: str) -> bool:
    """Whether a folder holds a model of another checkpoint, or in an earlier format."""
    if path.name.startswith(TEMPORARY_PREFIX):
        return False
    # What holds no list of ours is not ours to remove.
    names = [name for name in (MANIFEST, _EARLIER_MANIFEST) if (path / name).is_file()]
    try:
        found = {name: read_record(path / name, _Manifest) for name in names}
    except DataError:
        return False
    return any(
        one.format == FORMAT and (name == _EARLIER_MANIFEST or one.checkpoint_sha256 != checkpoint_sha256)
        for name, one in found.items()
    )
