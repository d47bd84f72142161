"""What a file is by its first bytes, in words: for whoever is given one that is not what was expected."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEAD_BYTES = 512
_SERIES_BYTES = 2**16
_SERIES_TAG = bytes.fromhex("20000e00")
_LONGEST_UID = 64
_DICOM_HINT = "convert the series to NIfTI first, for example: dcm2niix -z y -o nifti FOLDER"
_IMAGE_HINT = (
    "save it as NIfTI (.nii.gz) first, for example with ITK-SNAP, 3D Slicer, or SimpleITK: "
    "sitk.WriteImage(sitk.ReadImage(FILE), 'scan.nii.gz')"
)


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
        name: with its article, such as "a DICOM file".
        hint: what to do with it; "" if nothing can be done.
        is_text: whether it may be an index or a config.
    """

    name: str
    hint: str = ""
    is_text: bool = False


DICOM = FileKind("a DICOM file", _DICOM_HINT)
NIFTI = FileKind("a NIfTI file")
FOLDER = FileKind("a folder")
_TEXT = FileKind("a text file", is_text=True)
_PICKLE = FileKind("a Python pickle, as old versions of PyTorch wrote them")
_STARTS = (
    (b"NRRD", FileKind("an NRRD image", _IMAGE_HINT)),
    (b"\x89PNG", FileKind("a PNG picture")),
    (b"\xff\xd8\xff", FileKind("a JPEG picture")),
    (b"PK\x03\x04", FileKind("a zip archive")),
    (b"\x89HDF\r\n", FileKind("an HDF5 file, as Keras and MATLAB write them")),
    (b"%PDF", FileKind("a PDF")),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
)
_SUFFIXES = {
    ".dcm": DICOM,
    ".mha": FileKind("a MetaImage file", _IMAGE_HINT),
    ".mhd": FileKind("a MetaImage header", _IMAGE_HINT),
    ".nrrd": FileKind("an NRRD image", _IMAGE_HINT),
    ".nhdr": FileKind("an NRRD header", _IMAGE_HINT),
    ".mgz": FileKind("a FreeSurfer image", _IMAGE_HINT),
    ".img": FileKind("the voxels of an Analyze or NIfTI pair", _IMAGE_HINT),
    ".hdr": FileKind("the header of an Analyze or NIfTI pair", _IMAGE_HINT),
    ".onnx": FileKind("an ONNX model"),
}


def kind_of(path: Path) -> FileKind:
    """What a file is by its content and, where that says nothing, by its name. Reads at most 512 bytes of it."""
    if path.is_dir():
        return FOLDER
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError as error:
        return FileKind(f"a file that cannot be read ({error.strerror})")
    if not head:
        return FileKind("an empty file")
    by_content = _kind_of_bytes(head)
    return _SUFFIXES.get(path.suffix.lower(), by_content) if by_content.is_text or not by_content.name else by_content


def _kind_of_bytes(head: bytes) -> FileKind:
    """By the first bytes; a kind without a name if they say nothing."""
    if head[:2] == b"\x1f\x8b":
        return NIFTI if _is_nifti(_unpacked(head)) else FileKind("a gzip file")
    if head[128:132] == b"DICM":
        return DICOM
    if _is_nifti(head):
        return NIFTI
    if head.lstrip().startswith((b"ObjectType", b"NDims")):
        return _SUFFIXES[".mha"]
    known = next((kind for start, kind in _STARTS if head.startswith(start)), None)
    return known or (_TEXT if _is_text(head) else FileKind(""))


def _is_nifti(head: bytes) -> bool:
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def _unpacked(head: bytes) -> bytes:
    """The beginning of what is packed; nothing if it is damaged."""
    try:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(head)
    except (zlib.error, gzip.BadGzipFile):
        return b""


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.end < len(head):  # else the last character was cut in two
            return False
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM file; "" if it does not say, None if it is no DICOM file.

    The UID is searched in the first 64 kB rather than parsed, which is enough to count series::

        20 00 0E 00  U  I  len len  1.2.840...     explicit
        20 00 0E 00  len len len len  1.2.840...   implicit
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(_SERIES_BYTES)
    except OSError:
        return None
    if head[128:132] != b"DICM":
        return None
    place = head.find(_SERIES_TAG)
    if place < 0:
        return ""
    explicit = head[place + 4 : place + 6] == b"UI"
    length = int.from_bytes(head[place + 6 : place + 8] if explicit else head[place + 4 : place + 8], "little")
    uid = head[place + 8 : place + 8 + min(length, _LONGEST_UID)]
    return uid.rstrip(b"\0 ").decode("ascii", "replace")
