"""Writing an exported model into a folder, whole or not at all, after it was loaded again and compared."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import torch

from verse3d.core.errors import DataError, Verse3dError
from verse3d.core.files import is_file, output_error, sha256_of, write_json, write_text
from verse3d.core.paths import TEMPORARY_PREFIX
from verse3d.core.readers import Record, Text, read_record
from verse3d.core.runtime import Precision
from verse3d.data.samples.transforms import PreparedCase
from verse3d.inference.backends import network_of
from verse3d.inference.backends.parity import Parity, measure_parity
from verse3d.inference.export.formats import Format, get_format
from verse3d.inference.export.phantom_windows import phantom_case, windows_of_phantom
from verse3d.inference.export.readme import Export, channel_table, readme
from verse3d.inference.export.scout import ExportedScout, scout_images, scout_of
from verse3d.model.checkpoint import Checkpoint, load_checkpoint
from verse3d.model.scout import SCOUT, USABLE
from verse3d.version import __version__

FORMAT = "verse3d export"
MANIFEST, LABELS, README = "export.json", "labels.json", "README.md"
_CHECKED_WINDOWS = 2
_FLOAT32 = Precision(torch.float32, scales_loss=False)


@dataclass(frozen=True)
class ExportResult:
    """What was written. ``parity`` compares it with PyTorch; ``shape`` is that of a window, (n, ...)."""

    folder: Path
    files: tuple[str, ...]
    shape: tuple[int, ...]
    parity: Parity


def export_model(model: Path, to: str, out: Path, *, overwrite: bool = False) -> ExportResult:
    """Write the networks of a checkpoint for another runtime, with a description that suffices to use them.

    Args:
        model: the checkpoint.
        to: "onnx", "openvino" or "torchscript".
        out: the folder to make.
        overwrite: replace an earlier export there; anything else is never replaced.

    Raises:
        ConfigError: the format is unknown, or a package that it needs is missing.
        CheckpointError: the model is damaged, unsafe, or of another version.
        DataError: ``out`` holds something else, or an earlier export and ``overwrite`` is not set.
        Verse3dError: the network cannot be exported, or what was written computes something else. Nothing is left.
        OutputError: the folder cannot be written.
    """
    form = get_format(to)
    _require_free(out, overwrite=overwrite)
    checkpoint_sha256 = sha256_of(model) if model.is_file() else ""
    checkpoint = load_checkpoint(model)
    network = network_of(checkpoint, model)
    case = phantom_case(checkpoint.config)
    windows = windows_of_phantom(checkpoint.config, case, _CHECKED_WINDOWS)
    shape = tuple(windows.shape[1:])
    with _whole_folder(out) as folder:
        parity = _proven(form, network, windows, _written_and_run(form, network, windows, folder), model)
        scout = _written_scout(form, checkpoint, model, case, folder)
        own = {"verse3d": __version__, "python": platform.python_version()}
        libraries = {"torch": str(torch.__version__), "monai": str(monai.__version__)}
        versions = own | libraries | {package: version(package) for package in form.packages}
        about = Export(form, checkpoint.config, shape, parity, model.name, checkpoint_sha256, versions, scout)
        write_json(folder / LABELS, channel_table(about.config))
        write_text(folder / README, readme(about))
        # Last, because it holds the hashes of all others.
        names = (*form.files, *(scout.files if scout else ()), LABELS, README)
        write_json(folder / MANIFEST, _manifest(about, {name: sha256_of(folder / name) for name in names}))
    return ExportResult(out, tuple(sorted(path.name for path in out.iterdir())), shape, parity)


def _written_scout(
    form: Format, checkpoint: Checkpoint, model: Path, case: PreparedCase, folder: Path
) -> ExportedScout | None:
    """The scout beside the other network, under its own name; None if the checkpoint has none."""
    scout = scout_of(checkpoint, model)
    if scout is None:
        return None
    # Written with one size and compared on another.
    image, smaller = scout_images(case, scout.factor)
    own = folder / SCOUT
    own.mkdir()
    parity = _proven(form, scout, image, _written_and_run(form, scout, image, own, written_with=smaller), model)
    files = {name: name.replace("model", SCOUT, 1) for name in form.files}
    for name, renamed in files.items():
        (own / name).rename(folder / renamed)
    own.rmdir()
    usable = checkpoint.networks[SCOUT].scores.get(USABLE) == 1.0
    return ExportedScout(tuple(files.values()), scout.factor, parity, usable)


def _proven(form: Format, network: torch.nn.Module, windows: torch.Tensor, logits: torch.Tensor, model: Path) -> Parity:
    """How near the logits of an export come to PyTorch, if that is near enough.

    Raises:
        Verse3dError: it is not.
    """
    parity = measure_parity(network, windows, logits, _FLOAT32)
    if not parity.passed:
        raise Verse3dError(
            f"the {form.name} export of {model} computes something else than PyTorch: {parity.figures}",
            hint="nothing was kept; try another format, or other versions of its packages",
        )
    return parity


def _written_and_run(
    form: Format,
    network: torch.nn.Module,
    windows: torch.Tensor,
    folder: Path,
    *,
    written_with: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits that the written files give in their own runtime, for another size than they were written with."""
    try:
        if written_with is None:
            form.write(network, tuple(windows.shape[1:]), folder)
        else:
            form.write(network, tuple(written_with.shape[1:]), folder, any_size=True)
        return form.load(folder)(windows)
    except OSError:
        raise
    except Exception as error:  # exporters and runtimes raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Verse3dError(
            f"the network cannot be exported to {form.name}: {lines[0]}",
            hint="try another format with `to`",
            option="to",
        ) from error


def _manifest(export: Export, sha256: dict[str, str]) -> dict[str, Any]:
    channels = len(channel_table(export.config))
    return {
        "format": FORMAT,
        "format_version": 1,
        "to": export.form.name,
        "model": export.model,
        "checkpoint_sha256": export.checkpoint_sha256,
        "input": {"name": "image", "dtype": "float32", "shape": ["batch", *export.shape]},
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", channels, *export.shape[1:]]},
        "activation": "sigmoid" if channels == 1 else "softmax",
        "parity": export.parity.to_dict(),
        "scout": None if export.scout is None else export.scout.to_dict(),
        "versions": dict(export.versions),
        "config": export.config.to_dict(),
        "sha256": sha256,
    }


def _require_free(out: Path, *, overwrite: bool) -> None:
    """Only what an export wrote, and only all of it, may be replaced.

    Raises:
        DataError: there is anything else.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file, an export is a folder", hint="choose another `out`", option="out")
    there = {path.name for path in out.iterdir()}
    if not there:
        return
    foreign = there - _exported(out)
    if foreign:
        raise DataError(
            f"{out} holds files that no export wrote, or that changed since: {', '.join(sorted(foreign)[:5])}",
            hint="choose another folder as `out`",
            option="out",
        )
    if not overwrite:
        raise DataError(
            f"{out} holds an export already", hint="replace it with `overwrite`, or choose another `out`", option="out"
        )


class _Exported(Record):
    format: Text
    sha256: dict[str, Text]


def _exported(out: Path) -> set[str]:
    """The files in a folder that are still as an export wrote them."""
    try:
        content = read_record(out / MANIFEST, _Exported)
    except DataError:
        return set()
    if content.format != FORMAT:
        return set()
    # A file that somebody has changed since is theirs.
    ours = (name for name, sha256 in content.sha256.items() if is_file(out / name) and sha256_of(out / name) == sha256)
    return {MANIFEST, *ours}


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place (and that of an earlier one) if the block ends well."""
    temporary = out.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{out.name}")
    old = out.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-old-{out.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rename(old)
        temporary.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise (error if isinstance(error, Verse3dError) else output_error(out, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
