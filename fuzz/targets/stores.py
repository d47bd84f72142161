"""The store of prepared cases, which trainings share and anybody can write to."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.core.errors import DataError, OutputError
from verse3d.data.cases import Case
from verse3d.data.samples.entry import ENTRY_FILE
from verse3d.data.samples.prepare import Job, ensure_prepared
from verse3d.data.samples.store import open_store
from verse3d.data.samples.stored import StoredCases

_RIGHT = "the right voxels"
"""What is expected of an entry that is whole, or damaged and not sealed again: nothing else may come out of it."""


class Stores(Target):
    """An entry of the store: damaged, it is prepared again; what training reads is what the scan holds."""

    name = "store"
    share = 500
    limits = Limits(cpu_s=4, memory_mb=300)
    refusals = (DataError, OutputError)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.case = Case("a", "a", *scans.write_scan(originals, "a"), split="train")
        self.store = originals / "cases.store"
        job = self._job(self.store)
        ensure_prepared(job)
        self.entry = job.name
        self.values: dict[str, Any] = json.loads((self.store / job.name / ENTRY_FILE).read_bytes())["entry"]
        self.voxels = _voxels(job)

    def _job(self, store: Path) -> Job:
        return Job.of(open_store(store), scans.tiny_config().grid, self.case)

    def _copied(self, room: Room) -> Path:
        shutil.copytree(self.store, room.outputs / "cases.store")
        return room.outputs / "cases.store" / self.entry

    def intact(self, room: Room) -> Input:
        self._copied(room)
        return Input("intact", _RIGHT)

    def write(self, dice: Dice, room: Room) -> Input:
        entry = self._copied(room)
        if dice.random() < 0.4:  # a changed record under a right checksum: somebody meant it
            changed, words = mutate.tree(dice, self.values)
            return _sealed(entry, changed, words)
        path = dice.choice(sorted(entry.parent.glob("*/*")))
        content, words = mutate.data(dice, path.read_bytes(), head=64)
        path.write_bytes(content)
        return Input(f"{path.name}: {words}", _RIGHT)

    def read(self, room: Room, made: Input) -> None:
        image, ids = _voxels(self._job(room.outputs / "cases.store"))
        require(image.dtype == np.float16 and ids.dtype == np.uint8, f"{image.dtype} and {ids.dtype} were read")
        if made.expected == _RIGHT:
            right = np.array_equal(image, self.voxels[0]) and np.array_equal(ids, self.voxels[1])
            require(right, "other voxels than those of the scan were read, without a word")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def changed(**values: Any) -> Callable[[Room], Input]:
            return lambda room: _sealed(self._copied(room), {**self.values, **values}, f"{values}"[:80])

        def gone(name: str) -> Callable[[Room], Input]:
            def write(room: Room) -> Input:
                (self._copied(room) / name).unlink()
                return Input(f"{name} is gone", _RIGHT)

            return write

        geometry = self.values["geometry"]
        return {
            "a grid of the size of a planet": changed(geometry={**geometry, "shape": [10**9] * 3}),
            "blocks that lie outside": changed(blocks={"block": [10**9], "code": [20], "count": [5]}),
            "no labels": gone("labels.b2nd"),
            "no record": gone(ENTRY_FILE),
        }


def _sealed(entry: Path, values: Any, words: str) -> Input:
    text = json.dumps(values, sort_keys=True)
    checksum = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    content = json.dumps({"checksum": checksum, "entry": values})
    (entry / ENTRY_FILE).write_bytes(content.encode("utf-8", "surrogatepass"))
    return Input(f"sealed again, {words}")


def _voxels(job: Job) -> tuple[Any, Any]:
    """Image and ids of the whole case, and what sampling asks for on the way."""
    case = StoredCases([job], "vertebrae")[0]
    random = np.random.RandomState(0)
    for foreground_fraction in (0.0, 1.0):
        case.draw_centre(foreground_fraction, random)
    case.read_coarse()
    return case.read((0, 0, 0), case.geometry.shape)
