"""Which file format the prepared store should have: time to read a patch, size, and time to write, side by side.

    python benchmarks/store_formats.py [--shape 400x400x500] [--patch 96] [--reads 60] [--turns 4]

One synthetic case in float16, read in the same places from each format in turn, from the page cache, with one thread.
HDF5 and Zarr are left out where they aren't installed. The last line is JSON.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from loader_scans import write_scans

from verse3d.core.config import GridConfig
from verse3d.core.volume import read_image
from verse3d.data.samples.grid import prepare_image_float16

Read = Callable[[tuple[slice, ...]], Any]
_LZ4, _LZ4HC, _ZSTD = blosc2.Codec.LZ4, blosc2.Codec.LZ4HC, blosc2.Codec.ZSTD
_PLAIN, _BYTES, _BITS = blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE


def main() -> None:
    """Print a row per format, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="400x400x500")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--reads", type=int, default=60, help="patches")
    parser.add_argument("--turns", type=int, default=4, help="each is read so often, from all formats in turn")
    options = parser.parse_args()
    i, j, k = (int(length) for length in options.shape.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        scan = read_image(write_scans(Path(folder), 1, (i, j, k)) / "000_ct.nii")
        image = np.ascontiguousarray(prepare_image_float16(scan, GridConfig(spacing_mm=(1.0, 1.0, 1.0)))[0])
        boxes = _boxes(image.shape, options.patch, options.reads)
        sides = [written(name, make, image, Path(folder) / str(n)) for n, (name, make) in enumerate(formats())]
        assert all(np.array_equal(side.read(boxes[0]), image[boxes[0]]) for side in sides)
        milliseconds = read_in_turn(sides, boxes, options.turns)
    print("| format | MB | ms per patch | s to write |\n|--|--:|--:|--:|")
    rows = []
    for side, spent in zip(sides, milliseconds, strict=True):
        rows.append({"format": side.name, "mb": side.mb, "ms": spent, "write_s": side.write_s})
        print(f"| {side.name} | {side.mb} | {spent} | {side.write_s} |")
    print(json.dumps(rows))


@dataclass(frozen=True)
class Side:
    """A format that holds the image.

    Attributes:
        name: for the table.
        read: gives the voxels of a box.
        mb: size on disk.
        write_s: how long writing took.
    """

    name: str
    read: Read
    mb: float
    write_s: float


def written(name: str, make: Callable[[Any, Path], Read], image: Any, path: Path) -> Side:
    """Write the image to a file or folder."""
    start = time.perf_counter()
    read = make(image, path)
    write_s = time.perf_counter() - start
    files = [path] if path.is_file() else path.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return Side(name, read, round(size, 1), round(write_s, 2))


def read_in_turn(sides: Sequence[Side], boxes: Sequence[tuple[slice, ...]], turns: int) -> list[float]:
    """Median processor milliseconds per patch, each of them the least of its turns, so that other work meets all."""
    least = np.full((len(sides), len(boxes)), np.inf)
    random = np.random.default_rng(1)
    for _ in range(turns):
        for column, box in enumerate(boxes):
            # In another order each time: what a format leaves in the caches should not always help the same one.
            for row in random.permutation(len(sides)):
                start = time.process_time()
                np.array(sides[row].read(box))
                least[row, column] = min(least[row, column], time.process_time() - start)
    return [round(1e3 * float(np.median(row)), 2) for row in least]


def formats() -> Iterator[tuple[str, Callable[[Any, Path], Read]]]:
    """(name, function that writes an image to a path and gives a function that reads boxes of it)."""
    yield "raw memory map", memory_map
    flat = (16, 16, 32)
    for codec, level, filters, chunk, block in (
        (_LZ4HC, 5, _BYTES, 64, flat),
        (_LZ4HC, 5, _PLAIN, 64, flat),
        (_LZ4HC, 9, _BYTES, 64, flat),
        (_LZ4, 5, _BYTES, 64, flat),
        (_LZ4, 5, _BITS, 64, flat),
        (_ZSTD, 1, _BYTES, 64, flat),
        (_LZ4HC, 5, _BYTES, 128, flat),
        (_LZ4HC, 5, _BYTES, 64, (16, 16, 16)),
        (_LZ4HC, 5, _BYTES, 64, (16, 16, 64)),
        (_LZ4HC, 5, _BYTES, 64, (32, 32, 32)),
        (_LZ4HC, 5, _BYTES, 64, (64, 64, 64)),
    ):
        name = f"blosc2 {codec.name} {level} {filters.name}, chunks {chunk}, blocks {'x'.join(map(str, block))}"
        yield name, blosc2_array(codec, level, filters, (chunk, block), mapped=False)
        if (codec, level, chunk, block, filters) == (_LZ4HC, 5, 64, flat, _BYTES):
            yield f"{name}, mapped", blosc2_array(codec, level, filters, (chunk, block), mapped=True)
    if importlib.util.find_spec("h5py"):
        yield "HDF5 gzip 1 shuffle, chunks 32", hdf5
    if importlib.util.find_spec("zarr"):
        yield "Zarr zstd, chunks 64", zarr_array


def memory_map(image: Any, path: Path) -> Read:
    """An uncompressed .npy file, mapped."""
    with path.open("wb") as handle:
        np.save(handle, image)
    return np.load(path, mmap_mode="r").__getitem__


def blosc2_array(codec: Any, level: int, filters: Any, sizes: tuple[int, tuple[int, int, int]], *, mapped: bool) -> Any:
    """A blosc2 array, read with one thread."""
    chunk, block = sizes

    def make(image: Any, path: Path) -> Read:
        blosc2.asarray(
            image,
            urlpath=str(path),
            mode="w",
            chunks=(chunk,) * 3,
            blocks=block,
            cparams={"codec": codec, "clevel": level, "filters": [filters], "nthreads": 1},
        )
        how = {"mmap_mode": "r"} if mapped else {}
        array: Any = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **how)

        def read(box: tuple[slice, ...]) -> Any:
            # As training reads: decompressed to where the voxels are wanted.
            voxels = np.empty([along.stop - along.start for along in box], image.dtype)
            corners = tuple(along.start for along in box), tuple(along.stop for along in box)
            array.get_slice_numpy(voxels, corners)
            return voxels

        return read

    return make


def hdf5(image: Any, path: Path) -> Read:
    """HDF5 with its own filters."""
    import h5py  # noqa: PLC0415 - not everybody has it

    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image, chunks=(32,) * 3, compression="gzip", compression_opts=1, shuffle=True)
    data: Any = h5py.File(path, "r")["image"]
    return lambda box: data[box]


def zarr_array(image: Any, path: Path) -> Read:
    """Zarr with its default compressor."""
    import zarr  # noqa: PLC0415 - not everybody has it

    array: Any = zarr.create_array(str(path), shape=image.shape, dtype=image.dtype, chunks=(64,) * 3)
    array[:] = image
    return lambda box: array[box]


def _boxes(shape: tuple[int, ...], patch: int, count: int) -> list[tuple[slice, ...]]:
    random = np.random.default_rng(0)
    starts = [[int(random.integers(0, max(1, length - patch))) for length in shape] for _ in range(count)]
    return [tuple(slice(first, first + patch) for first in start) for start in starts]


if __name__ == "__main__":
    main()
