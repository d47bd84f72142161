"""A data set in the layouts of other programs."""

from pathlib import Path
from typing import Literal

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.data.convert import Conversion, convert_cases, nnunet_format, verse_format
from verse3d.data.index.discover import load_cases


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
