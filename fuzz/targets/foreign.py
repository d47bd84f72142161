"""What other programs, and other commands, wrote down in a folder: stray files, lists of downloads, manifests."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from fuzz.targets.tables import json_bombs, written
from verse3d.data.cases import read_index, write_index
from verse3d.data.converted import origin_of
from verse3d.data.index.discover import discover
from verse3d.data.samples.slice_folder import read_manifest
from verse3d.downloads.job import LOCK_FILE, download_archives
from verse3d.downloads.mirrors import Archive

_SMALL = Limits(cpu_s=2, memory_mb=120)
ARCHIVE = Archive(19, "training")


class StrayFiles(Target):
    """``dataset.json`` and ``conversion.json`` in a folder that is indexed: at worst they are ignored."""

    name = "stray"
    share = 700
    limits = _SMALL
    refusals = ()
    _dataset: ClassVar[dict[str, Any]] = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "C1": 1, "T13": 26, "vertebrae_L6": 25},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    _conversion: ClassVar[dict[str, Any]] = {
        "to": "nnunet",
        "cases": [
            {
                "case": "a",
                "name": "a",
                "subject": "s1",
                "split": "train",
                "fold": 1,
                "split_origin": "seed 1",
                "status": "written",
                "files": [{"path": "imagesTr/a_0000.nii.gz"}],
            }
        ],
    }

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.scan, self.mask = (path.read_bytes() for path in scans.write_scan(originals, "a"))

    def intact(self, room: Room) -> Input:
        self._lay_out(room, "conversion.json", json.dumps(self._conversion).encode())
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        name, value = dice.choice((("dataset.json", self._dataset), ("conversion.json", self._conversion)))
        content, words = mutate.json_file(dice, value)
        self._lay_out(room, name, content)
        return Input(f"{name}: {words}", 1)

    def _lay_out(self, room: Room, name: str, content: bytes) -> None:
        written(room, "imagesTr/a_0000.nii.gz", self.scan)
        written(room, "labelsTr/a.nii.gz", self.mask)
        written(room, name, content)

    def read(self, room: Room, made: Input) -> None:
        index = discover([room.inputs])
        require(len(index) == 1, f"{len(index)} cases instead of 1")
        case = index.cases[0]
        require(case.image is not None and case.mask is not None, "scan and mask were not paired")
        require(case.split in (None, "train", "validation", "test"), f"split {case.split!r}")
        require(case.fold is None or type(case.fold) is int, f"fold {case.fold!r}")
        origin_of(room.inputs / "imagesTr" / "a_0000.nii.gz")
        write_index(room.outputs / "cases.jsonl", index)
        require(read_index(room.outputs / "cases.jsonl") == index, "the index is another one after a round trip")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def beside(write: Callable[[Room], Input]) -> Callable[[Room], Input]:
            def all_of_it(room: Room) -> Input:
                self._lay_out(room, "readme.txt", b"")
                return write(room)

            return all_of_it

        names = ("dataset.json", "conversion.json", "predictions.json")
        return {f"{name}: {what}": beside(write) for name in names for what, write in json_bombs(name).items()}


class Locks(Target):
    """The list of downloads, and the note beside a part that was downloaded."""

    name = "locks"
    share = 400
    limits = _SMALL
    _lock: ClassVar[dict[str, Any]] = {
        "version": 1,
        "files": [
            {
                "file": ARCHIVE.name,
                "bytes": 22,
                "sha256": "0" * 64,
                "url": "https://h/a",
                "etag": "e",
                "recorded": "2024-01-01T00:00:00+00:00",
                "mtime_ns": 1,
            }
        ],
    }

    def intact(self, room: Room) -> Input:
        written(room, LOCK_FILE, json.dumps(self._lock).encode())
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_file(dice, self._lock)
        written(room, LOCK_FILE, content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        lock = room.outputs / LOCK_FILE
        (room.inputs / LOCK_FILE).rename(lock)
        (room.outputs / ARCHIVE.name).write_bytes(b"PK\5\6" + bytes(18))
        report = download_archives([ARCHIVE], room.outputs, lambda _: ())
        require(len(report.records) == 1, "no record of the archive")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return json_bombs(LOCK_FILE)


class Manifests(Target):
    """The manifest of a folder of slices."""

    name = "manifest"
    share = 400
    limits = _SMALL
    _row: ClassVar[dict[str, Any]] = {
        "case": "a",
        "split": "train",
        "plane": "sagittal",
        "axis": "R",
        "index": 3,
        "image": "train/a/s_0003.png",
        "mask": "train/a/s_0003_mask.png",
        "original_size": [20, 30],
        "labelled_voxels": 7,
    }

    def intact(self, room: Room) -> Input:
        written(room, "manifest.jsonl", (json.dumps(self._row) + "\n").encode())
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_lines(dice, [self._row, {**self._row, "index": 4}])
        written(room, "manifest.jsonl", content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        for row in read_manifest(room.inputs):
            require(isinstance(row.image, str) and isinstance(row.index, int), f"{row}")
            for name in (row.image, row.mask):
                inside = (room.inputs / name).resolve().is_relative_to(room.inputs.resolve())
                require(inside, f"{name!r} leads out of the folder")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return json_bombs("manifest.jsonl")
