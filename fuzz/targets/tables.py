"""The small files that describe data: the index, corrections to it, centroids, and the history of a run."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.core.geometry import Geometry
from verse3d.data.cases import read_index, write_index
from verse3d.data.centroids import read_centroids
from verse3d.data.index.overrides import apply_overrides, read_overrides
from verse3d.training.runfolder import read_history, write_history

_SMALL = Limits(cpu_s=2, memory_mb=120)
_ROWS: list[Any] = [
    {
        "case": "a",
        "subject": "a",
        "image": "a_ct.nii.gz",
        "mask": "a_msk.nii.gz",
        "centroids": "a.json",
        "split": "train",
        "split_origin": "release",
        "series": "verse1",
        "part": "verse19training",
        "fold": 0,
        "relabel": [[19, 20]],
        "notes": ["override: relabel 19>20"],
    },
    {
        "case": "b",
        "subject": "b",
        "image": "/data/b_ct.nii.gz",
        "mask": None,
        "split": "test",
        "split_origin": "seed 1",
    },
    {"case": "c", "subject": "c", "image": None, "mask": "c_msk.nii.gz", "split": None, "split_origin": ""},
]


def written(room: Room, name: str, content: bytes) -> Path:
    """The file below the inputs, with its folders."""
    path = room.inputs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def text_file(name: str, content: str) -> Callable[[Room], Input]:
    """A past failure that is one text file."""

    def write(room: Room) -> Input:
        written(room, name, content.encode("utf-8", "surrogatepass"))
        return Input(f"{content[:40]!r} ...")

    return write


def json_bombs(name: str) -> dict[str, Callable[[Room], Input]]:
    """What every reader of JSON has met: nesting without end, numbers without measure, and what is no file."""
    return {
        "nested lists": text_file(name, "[" * mutate.DEEP),
        "nested mappings": text_file(name, '{"a":' * mutate.DEEP),
        "a number of a million digits": text_file(name, "9" * 1_000_000),
        "infinity": text_file(name, "Infinity"),
        "a pipe": _pipe(name),
    }


def _pipe(name: str) -> Callable[[Room], Input]:
    def write(room: Room) -> Input:
        path = written(room, name, b"")
        path.unlink()
        os.mkfifo(path)
        return Input("a FIFO, which nobody writes to")

    return write


class Index(Target):
    """``cases.jsonl``: what is read can be written, and is then read as the same."""

    name = "index"
    share = 1500
    limits = _SMALL

    def intact(self, room: Room) -> Input:
        written(room, "cases.jsonl", "".join(json.dumps(row) + "\n" for row in _ROWS).encode())
        return Input("intact", True)

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_lines(dice, _ROWS)
        same = False
        if dice.random() < 0.05:
            content, words = "\n\n".join(json.dumps(row) for row in _ROWS).encode() + b"\n \n", "blank lines"
            same = True
        written(room, "cases.jsonl", content)
        return Input(words, same)

    def read(self, room: Room, made: Input) -> None:
        index = read_index(room.inputs / "cases.jsonl")
        again = room.outputs / "cases.jsonl"
        write_index(again, index)
        back = read_index(again)
        require([case.case for case in back] == [case.case for case in index], "other names after a round trip")
        for one, other in zip(index, back, strict=True):
            different = [name for name in vars(one) if _place(getattr(one, name)) != _place(getattr(other, name))]
            require(not different, f"{one.case} differs in {different} after a round trip")
        require(not made.expected or len(index) == len(_ROWS), "blank lines count")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return json_bombs("cases.jsonl") | {
            "a name with NUL": text_file("cases.jsonl", '{"case": "a\\u0000b", "image": "a.nii"}'),
            "a path with NUL": text_file("cases.jsonl", '{"case": "a", "image": "a\\u0000b.nii"}'),
            "a lone surrogate": text_file("cases.jsonl", '{"case": "\\ud800", "image": "\\ud800.nii"}'),
            "a name of 300 characters": text_file("cases.jsonl", json.dumps({"case": "a" * 300, "image": "a.nii"})),
        }


def _place(value: object) -> object:
    """A path as the place that it leads to: ``write_index`` may name it in a shorter way."""
    return os.path.normpath(value) if isinstance(value, Path) else value


_CSV = """case,action,value,note
a,relabel,19>20 20>21,checked by hand
b,relabel,"T12>L1, L1>L2",
c,split,test,
a,subject,somebody,
b,exclude,,broken
a,mask,other.nii.gz,
"""


class Corrections(Target):
    """The CSV of corrections, and its application."""

    name = "overrides"
    share = 800
    limits = _SMALL

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        _, mask = scans.write_scan(originals, "other")
        self.mask = mask.read_bytes()
        (originals / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
        self.cases = read_index(originals / "cases.jsonl").cases

    def intact(self, room: Room) -> Input:
        written(room, "other.nii.gz", self.mask)
        written(room, "overrides.csv", _CSV.encode())
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        written(room, "other.nii.gz", self.mask)
        if dice.random() < 0.5:
            content, words = mutate.text(dice, _CSV)
        else:
            rows = [line.split(",", 3) for line in _CSV.splitlines()]
            row = dice.randrange(1, len(rows))
            column, value = dice.randrange(4), dice.choice(mutate.TEXTS)
            rows[row][column] = value
            content = "\n".join(",".join(cells) for cells in rows).encode("utf-8", "surrogatepass")
            words = f"row {row}, column {column}: {value[:20]!r}"
        written(room, "overrides.csv", content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        applied = apply_overrides(self.cases, read_overrides(room.inputs / "overrides.csv"))
        require(len(applied.cases) + len(applied.excluded) == len(self.cases), "a case got lost")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return {
            "a pipe": _pipe("overrides.csv"),
            "a field of a megabyte": text_file("overrides.csv", f"case,action\na,{'x' * 10**6}"),
            "NUL in a path": text_file("overrides.csv", "case,action,value\na,mask,a\0b.nii\n"),
            "a mask that is a device": text_file("overrides.csv", "case,action,value\na,mask,/dev/zero\n"),
            "an id of 5000 digits": text_file("overrides.csv", f"case,action,value\na,relabel,{'9' * 5000}>3\n"),
        }


class History(Target):
    """``history.csv`` of a run: numbers come back as they were written."""

    name = "history"
    share = 300
    limits = _SMALL
    _rows = tuple(
        {"epoch": n, "step": 2 * n, "train_loss": 1 / n, "validation_dice": float("nan")} for n in range(1, 6)
    )

    def intact(self, room: Room) -> Input:
        write_history(room.inputs / "history.csv", self._rows)
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        path = room.inputs / "history.csv"
        write_history(path, self._rows)
        content, words = mutate.text(dice, path.read_text())
        path.write_bytes(content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        rows = read_history(room.inputs / "history.csv")
        for row in rows:
            require(all(isinstance(key, str) and isinstance(value, float) for key, value in row.items()), f"{row}")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return {"a pipe": _pipe("history.csv"), "a row too long": text_file("history.csv", "a,b\n1,2,3\n")}


class CentroidFiles(Target):
    """Centroids of both formats: those that are read are finite, and those of an intact file are right."""

    name = "centroids"
    share = 900
    limits = _SMALL

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        points = [{"label": label, "X": 10.5, "Y": 4.0 + label, "Z": 7.1} for label in (19, 20, 21)]
        self.texts: dict[str, list[Any]] = {"miccai": points, "voxel": [{"direction": ["P", "I", "R"]}, *points]}
        self.geometry = Geometry(scans.SHAPE, np.diag([2.0, 3.0, 4.0, 1.0]))

    def intact(self, room: Room) -> Input:
        written(room, "a_ctd.json", json.dumps(self.texts["voxel"]).encode())
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        kind = dice.choice(list(self.texts))
        content, words = mutate.json_file(dice, self.texts[kind])
        written(room, "a_ctd.json", content)
        return Input(f"{kind}: {words}")

    def read(self, room: Room, made: Input) -> None:
        found = read_centroids(room.inputs / "a_ctd.json", self.geometry)
        require(len(found.labels) == len(found.world_mm), "labels and points do not pair up")
        require(bool(np.isfinite(np.array(found.world_mm)).all()), f"not finite: {found.world_mm}")
        require(all(isinstance(label, int) for label in found.labels), f"labels {found.labels}")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return json_bombs("a_ctd.json") | {
            "a point at 1e308": text_file("a_ctd.json", '[{"label": 20, "X": 1e308, "Y": -1e308, "Z": 1e308}]'),
            "an infinite label": text_file("a_ctd.json", '[{"label": Infinity, "X": 1, "Y": 1, "Z": 1}]'),
        }
