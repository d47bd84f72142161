"""Headers that promise too much are refused before anything is allocated."""

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from verse3d.core import memory
from verse3d.core.errors import DataError, GeometryError, MemoryLimitError
from verse3d.core.geometry import Geometry
from verse3d.core.limits import require_countable, require_ct_grid, spacing_problem
from verse3d.core.preview import read_preview
from verse3d.core.volume import read_image, read_labels, stored_voxels

HUGE = (30000, 30000, 30000)
READERS = {"scan": read_image, "mask": read_labels, "look": read_preview, "plan": stored_voxels}


def promising(path: Path, shape=HUGE, dtype=np.int16, voxels: bytes = b"") -> Path:
    """A file whose header promises a volume of that shape."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = header.single_magic, 352
    content = header.binaryblock + bytes(4) + voxels
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_promises_more_than_the_file_can_hold_is_refused_by_its_length(tmp_path, name, reader):
    path = promising(tmp_path / name, voxels=bytes(200))
    with pytest.raises(DataError, match="promises 54,000,000,000,352 bytes") as caught:
        READERS[reader](path)
    assert str(path) in caught.value.message and "damaged" in caught.value.hint


def test_a_file_packed_as_tightly_as_gzip_can_is_read(tmp_path):
    path = promising(tmp_path / "zeros.nii.gz", (256, 256, 128), voxels=bytes(2 * 256 * 256 * 128))
    assert 2 * 256 * 256 * 128 / path.stat().st_size > 900
    assert not read_image(path).array.any()


@pytest.mark.parametrize("reader", ["scan", "mask", "look"])
def test_what_does_not_fit_into_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, reader):
    path = promising(tmp_path / "a.nii.gz", (200, 200, 100), voxels=bytes(2 * 200 * 200 * 100))
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 3_000_000)
    with pytest.raises(MemoryLimitError, match=r"reading .*a\.nii\.gz takes 0\.0\d GB"):
        READERS[reader](path)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 30_000_000)
    READERS[reader](path)


def test_a_small_file_of_a_large_volume_takes_no_memory_that_is_not_there(tmp_path):
    """0.8 GB of zeros in 1 MB, read by a program that may take 0.5 GB: an error, not a kill and no MemoryError."""
    path, plane = tmp_path / "a.nii.gz", gzip.compress(bytes(2 * 1000 * 1000))
    header = promising(tmp_path / "head.nii", (1000, 1000, 400)).read_bytes()
    path.write_bytes(gzip.compress(header) + 400 * plane)  # several streams in one file are legal
    assert path.stat().st_size < 2_000_000
    program = f"""
from pathlib import Path
from verse3d.core import memory
from verse3d.core.errors import MemoryLimitError
from verse3d.core.volume import read_image
status = Path("/proc/self/status")  # what the package says of itself would load PyTorch first
def kilobytes(name):
    return int(status.read_text().split(name + ":")[1].split()[0])
memory.free_memory_bytes = lambda: 500_000_000
try:
    read_image(Path({str(path)!r}))
except MemoryLimitError as error:
    print(error)
print(not status.exists() or kilobytes("VmHWM") - kilobytes("VmRSS") < 200_000)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "takes 0.80 GB of memory" in run.stdout and run.stdout.strip().endswith("True")


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_mask_full_of_bad_values_is_explained_without_a_list_of_them(tmp_path):
    """The list of all indices would take 24 bytes a voxel: 240 MB here."""
    path = promising(tmp_path / "a.nii", (250, 200, 200), np.float32, np.full(10_000_000, np.nan, np.float32).tobytes())
    program = f"""
from pathlib import Path
from verse3d.core.errors import DataError
from verse3d.core.runtime import rss_mb, peak_rss_mb
from verse3d.core.volume import read_image
before = rss_mb()
try:
    read_image(Path({str(path)!r}))
except DataError as error:
    print(error.message)
print(peak_rss_mb() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    message, taken_mb = run.stdout.splitlines()
    assert "10000000 voxels are NaN or infinite, the first at index (0, 0, 0)" in message
    assert float(taken_mb) < 120


@pytest.mark.parametrize("spacing", [(1500.0, 1.0, 1.0), (1.0, 1e-6, 1.0), (1.0, 1.0, 0.009)])
def test_an_impossible_spacing_is_named(spacing):
    grid = Geometry((20, 18, 24), np.diag([*spacing, 1.0]))
    assert "mm cannot be those of a CT" in spacing_problem(grid)
    with pytest.raises(GeometryError, match="cannot be those of a CT"):
        require_ct_grid(grid)


def test_spacings_of_real_scanners_are_no_problem():
    for spacing in ((0.05, 0.05, 0.05), (0.98, 0.98, 10.0), (1.5, 1.5, 50.0)):
        assert spacing_problem(Geometry((20, 18, 24), np.diag([*spacing, 1.0]))) == ""


def test_a_grid_beyond_any_memory_is_refused_in_whole_numbers():
    require_countable((10_000, 10_000, 10_000), "it")
    with pytest.raises(GeometryError, match="it would have 3000000000 x 3000000000 x 3000000000 voxels"):
        require_countable((3 * 10**9,) * 3, "it")


def test_files_that_the_kernel_merely_keeps_count_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for name, content in (("max", "1000000"), ("current", "900000"), ("stat", "anon 100\ninactive_file 600000\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory.free_memory_bytes() == 700_000
