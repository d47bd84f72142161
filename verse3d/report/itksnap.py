"""What ITK-SNAP needs to show a mask with the right names and colours: a label description file and a command."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.files import whole_file
from verse3d.core.labels import Label

# ITK-SNAP refuses a file whose second line is not exactly this one; some header lines end with a space.
_HEADER = (
    "################################################",
    "# ITK-SnAP Label Description File",
    "# File format: ",
    "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
    "# Fields: ",
    "#    IDX:   Zero-based index ",
    "#    -R-:   Red color component (0..255)",
    "#    -G-:   Green color component (0..255)",
    "#    -B-:   Blue color component (0..255)",
    "#    -A-:   Label transparency (0.00 .. 1.00)",
    "#    VIS:   Label visibility (0 or 1)",
    "#    MSH:   Label mesh visibility (0 or 1)",
    "#  LABEL:   Label description ",
    "################################################",
)
_HIGHEST_ID = 65535


def label_description(labels: Sequence[Label]) -> str:
    """The text of an ITK-SNAP label description file: the clear label, then one fully opaque row per label.

    Args:
        labels: the labels in the order in which their rows are written.

    Returns:
        Lines that end with LF, which is the only line ending that ITK-SNAP accepts.

    Raises:
        DataError: an id is not 1-65535, or a name cannot stand between double quotes on one line.
    """
    rows = [_row(0, (0, 0, 0), 0, "Clear Label")]
    for label in labels:
        if not 1 <= label.id <= _HIGHEST_ID:
            reach = f"ITK-SNAP takes 1-{_HIGHEST_ID} (0 is the background)"
            raise DataError(f"label {label.name!r} has id {label.id}; {reach}")
        if '"' in label.name or not label.name.isprintable():
            raise DataError(f"label {label.id} has a name that ITK-SNAP cannot read: {label.name!r}")
        rows.append(_row(label.id, label.rgb, 1, label.name))
    return "\n".join([*_HEADER, *rows]) + "\n"


def write_label_description(path: Path | str, labels: Sequence[Label]) -> None:
    """Write ``label_description(labels)`` to ``path`` (UTF-8), completely or not at all.

    Raises:
        DataError: a label cannot be written, see ``label_description``.
        OutputError: the file cannot be written.
    """
    text = label_description(labels)
    with whole_file(Path(path)) as part, part.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)


def open_command(image: Path | str, mask: Path | str, label_file: Path | str) -> str:
    """The shell command that opens an image with its mask and label names in ITK-SNAP, quoted for POSIX shells.

    Example:
        >>> open_command("ct.nii.gz", "my mask.nii.gz", "verse.label")
        "itksnap -g ct.nii.gz -s 'my mask.nii.gz' -l verse.label"
    """
    return shlex.join(["itksnap", "-g", str(image), "-s", str(mask), "-l", str(label_file)])


def _row(label_id: int, rgb: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = rgb
    return f'  {label_id:3d}   {red:3d}  {green:3d}  {blue:3d}  {shown:7.2g}  {shown}  {shown}    "{name}"'
