"""NIfTI files: every field of the header, the voxels, and the gzip around them. The oracle is nibabel."""

import gzip
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from fuzz import mutate
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.core.errors import DataError
from verse3d.core.preview import read_preview
from verse3d.core.volume import read_geometry, read_image, read_labels, write_labels
from verse3d.data.index.probe import probe

SHAPE = (7, 5, 6)
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim[0]": (40, "h"), "dim[1]": (42, "h"), "dim[2]": (44, "h"), "dim[3]": (46, "h"),
    "dim[4]": (48, "h"), "dim[7]": (54, "h"), "intent_code": (68, "h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim[0]": (76, "f"), "pixdim[1]": (80, "f"), "pixdim[2]": (84, "f"), "pixdim[3]": (88, "f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"), "quatern_c": (260, "f"),
    "qoffset_x": (268, "f"), "srow_x[0]": (280, "f"), "srow_x[3]": (292, "f"), "srow_y[1]": (300, "f"),
    "srow_z[2]": (320, "f"), "magic": (344, "i"), "extension": (348, "i"),
}  # fmt: skip
"""Offset and type of the fields of a NIfTI-1 header that something depends on."""
_WORDS = {"b": "bB", "h": "hH", "i": "iI", "f": "f"}
_WHOLE = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 256, 300, 512, 768, 1024, 2304, 30_000, 32_767, -32_768)
_REAL = (
    0.0, -0.0, 1.0, -1.0, 1e-30, 1e-6, 0.001, 1500.0, 1e6, 1e9, 1e30, -1e30, 3.4e38, 348.0, 352.0, -352.0,
    np.inf, -np.inf, np.nan,
)  # fmt: skip
_HEADER_BYTES = 352


def affine(spacing_mm: tuple[float, float, float] = (2.0, 3.0, 2.5)) -> NDArray[np.float64]:
    """Axes towards posterior, inferior and right, turned a little: nothing here is symmetric."""
    turn = np.array([[0.02, 0.1, 0.9949], [-0.995, 0.1, 0.01], [-0.1, -0.99, 0.1]])
    result = np.eye(4)
    result[:3, :3] = np.linalg.qr(turn)[0] * np.sign(np.diag(np.linalg.qr(turn)[1])) * np.array(spacing_mm)
    result[:3, 3] = -31.0, 17.0, 240.0
    return result


def originals() -> dict[str, bytes]:
    """A file of each kind that is stored in practice: types, scaling, byte order, NIfTI-2."""
    draw = np.random.default_rng(0)
    hu = draw.integers(-1000, 1500, SHAPE).astype(np.int16)
    labels = draw.integers(0, 26, SHAPE).astype(np.uint8)
    scaled = nib.Nifti1Image(hu, affine())
    scaled.header.set_slope_inter(0.5, -100.0)
    swapped = nib.Nifti1Image(hu.astype(">i2"), affine(), nib.Nifti1Header(endianness=">"))
    images = {
        "int16": nib.Nifti1Image(hu, affine()),
        "scaled": scaled,
        "labels": nib.Nifti1Image(labels, affine()),
        "uint16": nib.Nifti1Image(labels.astype(np.uint16) * 20, affine()),
        "float32": nib.Nifti1Image(hu.astype(np.float32), affine()),
        "float64": nib.Nifti1Image(labels.astype(np.float64), affine()),
        "big-endian": swapped,
        "nifti2": nib.Nifti2Image(hu.astype(np.int32), affine()),
    }
    for image in images.values():
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, 1)
    return {name: image.to_bytes() for name, image in images.items()}


def with_field(content: bytes, field: str, value: float) -> bytes:
    """A NIfTI-1 file with another value in one field of its header; whole numbers are cut to the field's size."""
    offset, kind = FIELDS[field]
    if kind == "f":
        with np.errstate(all="ignore"):
            packed = np.float32(value).tobytes()
    else:
        size = struct.calcsize(kind)
        packed = (int(value) % 256**size).to_bytes(size, "little")
    return content[:offset] + packed + content[offset + len(packed) :]


def damaged_header(dice: Dice, content: bytes) -> tuple[bytes, str]:
    """Set one to three fields to what nobody expects; now and then the shape and the voxels' place still fit."""
    words = []
    for _ in range(dice.choice((1, 1, 2, 3))):
        field = dice.choice(list(FIELDS))
        value = dice.choice(_REAL if FIELDS[field][1] == "f" else _WHOLE)
        content = with_field(content, field, value)
        words.append(f"{field} = {value:g}")
    return content, ", ".join(words)


def damaged_file(dice: Dice, content: bytes) -> tuple[bytes, str]:
    """Header fields or bytes of an unpacked file."""
    if dice.random() < 0.5:
        return damaged_header(dice, content)
    return mutate.data(dice, content, head=_HEADER_BYTES)


def packed(dice: Dice, content: bytes) -> tuple[bytes, str]:
    """The file as gzip: whole, damaged, in two streams, or with something behind it."""
    kind = dice.randrange(8)
    if kind < 4:
        return gzip.compress(content, 1), "gzip"
    if kind == 4:
        half = dice.randrange(len(content) + 1)
        return gzip.compress(content[:half], 1) + gzip.compress(content[half:], 1), "gzip, two streams"
    if kind == 5:
        return gzip.compress(content, 1) + dice.randbytes(9), "gzip and something behind it"
    damaged, words = mutate.data(dice, gzip.compress(content, 1))
    return damaged, f"gzip: {words}"


class Nifti(Target):
    """Every reader of volumes, and the writer of masks on whatever grid could be read."""

    name = "nifti"
    share = 4000
    limits = Limits(cpu_s=3, memory_mb=100)

    def __init__(self, originals_folder: Path) -> None:
        super().__init__(originals_folder)
        self.files = originals()

    def intact(self, room: Room) -> Input:
        path = room.inputs / "scan.nii.gz"
        path.write_bytes(gzip.compress(self.files["labels"], 1))
        return Input("intact", path)

    def write(self, dice: Dice, room: Room) -> Input:
        kind = dice.choice(list(self.files))
        content, words = damaged_file(dice, self.files[kind])
        suffix = dice.choice((".nii", ".nii.gz", ".NII.GZ"))
        if suffix != ".nii":
            if dice.random() < 0.2:
                content, words = self.files[kind], "intact"
            content, how = packed(dice, content)
            words = f"{words}; {how}"
        path = room.inputs / f"scan{suffix}"
        path.write_bytes(content)
        return Input(f"{kind}{suffix}: {words}", path)

    def read(self, room: Room, made: Input) -> None:
        path: Path = made.expected
        probed = probe(path)  # never raises: it says what is wrong
        for reader in (read_preview, read_labels):
            _readable(reader, path)
        geometry, header = read_geometry(path)
        volume = read_image(path)
        oracle = nib.load(path)
        voxels = np.asanyarray(oracle.dataobj)
        if voxels.ndim > 3 and set(voxels.shape[3:]) == {1}:  # one volume, although the header counts more axes
            voxels = voxels.reshape(voxels.shape[:3])
        require(not probed.problem, f"read, although the probe says {probed.problem!r}")
        require(volume.array.shape == voxels.shape, f"shape {volume.array.shape}, nibabel {voxels.shape}")
        require(np.array_equal(geometry.affine, oracle.affine), "another affine than nibabel's")
        expected = voxels.astype(volume.array.dtype)
        require(np.allclose(volume.array, expected, rtol=1e-6, atol=1e-6), "other voxels than nibabel's")
        target = room.outputs / "mask.nii.gz"
        write_labels(target, np.ones(voxels.shape, np.uint8), like=header)
        again = nib.load(target)
        require(np.array_equal(again.affine, oracle.affine), "the mask lies elsewhere")
        require(bool((np.asanyarray(again.dataobj) == 1).all()), "the mask is not what was written")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return {
            "480 bytes that say 30000 cubed": self._past(
                {"dim[1]": 30_000, "dim[2]": 30_000, "dim[3]": 30_000}, ".nii"
            ),
            "the same in gzip": self._past({"dim[1]": 30_000, "dim[2]": 30_000, "dim[3]": 30_000}, ".nii.gz"),
            "voxels of 1500 mm": self._past({"pixdim[1]": 1500.0, "srow_x[0]": 1500.0}, ".nii.gz"),
            "voxels begin before the file": self._past({"vox_offset": -352.0}, ".nii"),
        }

    def _past(self, fields: Mapping[str, float], suffix: str) -> Callable[[Room], Input]:
        def write(room: Room) -> Input:
            content = self.files["int16"]
            for field, value in fields.items():
                content = with_field(content, field, value)
            path = room.inputs / f"scan{suffix}"
            path.write_bytes(content if suffix == ".nii" else gzip.compress(content, 1))
            return Input(f"{fields}", path)

        return write


def _readable(reader: Callable[[Path], object], path: Path) -> bool:
    """Whether a reader takes the file; what it may refuse with is judged by the one that is compared."""
    try:
        reader(path)
    except DataError:
        return False
    return True
