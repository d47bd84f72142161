"""The job of writing slices as pictures."""

from collections.abc import Sequence
from pathlib import Path

from verse3d.api.models import divided
from verse3d.core.config import load_config
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.core.setting_types import SlicePlane
from verse3d.data.cases import Split
from verse3d.data.samples.slice_writer import SliceReport, write_slices


def slices(
    data: PathOrText,
    *,
    out: PathOrText,
    plane: SlicePlane | None = None,
    size: int | None = None,
    only_labelled: bool = False,
    config: PathOrText = "slices2d",
    overrides: Sequence[str] = (),
    split: Split | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SliceReport:
    """Write every slice of every case, as mode 2d sees it, as an 8-bit PNG with a mask PNG beside it.

    Args:
        data: an index with splits, or a folder (whose undivided subjects are then divided by ``runtime.seed``).
        out: gets a folder per split and case, ``manifest.jsonl`` and ``config.yaml``.
        plane: "sagittal", "coronal", "axial" or "as-stored"; None takes that of the config.
        size: rows and columns that they are stretched to; None takes those of the config.
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
        ConfigError: the config holds mistakes, or a ``size`` beside ``slices.spacing_mm``.
        DataError: there is no case with a scan and a mask, or ``out`` holds something else.
        OutputError: the folder cannot be written to.
    """
    # Options are settings under another name, so that what is written beside the slices is one config.
    chosen = {"slices.plane": plane, "slices.size_pixels": size}
    settings = load_config(Path(config), [*overrides, *(f"{key}={value}" for key, value in chosen.items() if value)])
    if size and settings.slices.spacing_mm is not None:
        raise ConfigError(
            "slices with pixels of `slices.spacing_mm` are written whole, so they have no other size",
            hint="leave `size` out, or stretch them with slices.spacing_mm=null",
            option="size",
        )
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
