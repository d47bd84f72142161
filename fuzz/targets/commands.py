"""Whole commands over a folder with one bad scan between two good ones: the good ones are always done."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from fuzz.targets.models import sealed
from fuzz.targets.nifti import damaged_file, with_field
from verse3d.cli import main
from verse3d.data.predictions import mask_path

_EXITS = (0, 3)
_NAMES = (
    "a" * 200, "a" * 255, "a" * 300, "a\0b", "\ud800", "\udcff", "\x1b[2J", "\n", "=1+1", "<b>", "ä ß", "[red]x",
    "-rf", "CON", ".hidden", "..x", "a b", "%s{}", "\u202e", 'a,b"c', "'", "`id`", "$(id)", "|x", "x" * 4096,
)  # fmt: skip


class _Commands(Target):
    """What the commands share: three scans, of which the middle one is bad."""

    limits = Limits(cpu_s=12, memory_mb=500)
    refusals = ()

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.good = {name: scans.write_scan(originals, name, seed) for seed, name in enumerate(("a", "z"))}
        self.scan = gzip.decompress(self.good["a"][0].read_bytes())
        self.mask = gzip.decompress(self.good["a"][1].read_bytes())

    def lay_out(self, room: Room, scan: bytes, mask: bytes | None = None, name: str = "m") -> Path:
        """An index of the good cases and a bad one with these bytes (unpacked) as its files."""
        (room.inputs / "m_ct.nii.gz").write_bytes(gzip.compress(scan, 1))
        (room.inputs / "m_msk.nii.gz").write_bytes(gzip.compress(self.mask if mask is None else mask, 1))
        rows = [self._row(case, *paths) for case, paths in self.good.items()]
        rows.insert(1, self._row(name, room.inputs / "m_ct.nii.gz", room.inputs / "m_msk.nii.gz"))
        return self.write_rows(room, rows)

    @staticmethod
    def _row(case: str, image: Path, mask: Path) -> dict[str, Any]:
        return {"case": case, "subject": case, "image": str(image), "mask": str(mask), "split": "test"}

    @staticmethod
    def write_rows(room: Room, rows: list[dict[str, Any]]) -> Path:
        """The index."""
        index = room.inputs / "cases.jsonl"
        index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return index


class Predict(_Commands):
    """``predict`` under a limit of memory: good scans get the masks that they get alone, and bad ones a reason."""

    name = "predict"
    share = 450

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.model = originals / "best.pt"
        scans.write_model(self.model, scans.tiny_config())
        images = [str(image) for image, _ in self.good.values()]
        self.expected_folder = originals / "expected"
        require(self._predict(images, self.expected_folder) == 0, "the good scans alone fail")
        self.expected = {name: self._voxels(self.expected_folder, name) for name in self.good}

    def _predict(self, scans_: list[str], out: Path) -> int:
        arguments = ["--model", str(self.model), "--out", str(out), "--device", "cpu", "--backend", "torch"]
        return main(["-q", "predict", *scans_, *arguments, "--no-preview", "--max-ram-gb", "2"])

    @staticmethod
    def _voxels(folder: Path, case: str) -> np.ndarray[Any, Any]:
        return np.asanyarray(nib.load(mask_path(folder, case)).dataobj)

    def intact(self, room: Room) -> Input:
        (room.inputs / "m_ct.nii.gz").write_bytes(gzip.compress(self.scan, 1))
        return Input("intact", True)

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = damaged_file(dice, self.scan)
        (room.inputs / "m_ct.nii.gz").write_bytes(gzip.compress(content, 1))
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        bad = room.inputs / "m_ct.nii.gz"
        images = [str(self.good["a"][0]), str(bad), str(self.good["z"][0])]
        code = self._predict(images, room.outputs)
        require(code in _EXITS and (code == 0 or not made.expected), f"exit code {code}")
        for name, expected in self.expected.items():
            require(np.array_equal(self._voxels(room.outputs, name), expected), f"another mask of {name}")
        records = {one["case"]: one for one in json.loads((room.outputs / "predictions.json").read_text())["cases"]}
        require(len(records) == 3, f"{len(records)} records")
        failed = records["m"]["status"] == "failed"
        require(failed == (code == 3) == (not mask_path(room.outputs, "m").exists()), f"exit code {code}")
        if not failed:
            same = nib.load(mask_path(room.outputs, "m")).shape == nib.load(bad).shape
            require(same, "the mask has another shape than its scan")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        huge = {"dim[1]": 30_000, "dim[2]": 30_000, "dim[3]": 30_000}
        return {
            "voxels of 1500 mm": self._past({"pixdim[1]": 1500, "pixdim[2]": 1500, "pixdim[3]": 1500, "sform_code": 0}),
            "a header of 30000 cubed": self._past(huge),
            "voxels of 1e30 mm": self._past({"srow_x[0]": 1e30, "srow_y[1]": 1e30, "srow_z[2]": 1e30}),
            "voxels of 1e-30 mm": self._past({"srow_x[0]": 1e-30, "srow_y[1]": 1e-30, "srow_z[2]": 1e-30}),
        }

    def _past(self, fields: Mapping[str, float]) -> Callable[[Room], Input]:
        def write(room: Room) -> Input:
            content = self.scan
            for field, value in fields.items():
                content = with_field(content, field, value)
            (room.inputs / "m_ct.nii.gz").write_bytes(gzip.compress(content, 1))
            return Input(f"{fields}")

        return write


class AbsurdModels(_Commands):
    """``predict`` with a model whose config asks for the impossible: refused, or each scan fails by itself."""

    name = "absurd"
    share = 250

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        scans.write_model(originals / "best.pt", scans.tiny_config())
        self.content: dict[str, Any] = torch.load(originals / "best.pt", weights_only=True)

    def intact(self, room: Room) -> Input:
        (room.inputs / "best.pt").write_bytes(sealed(self.content))
        return Input("intact", True)

    def write(self, dice: Dice, room: Room) -> Input:
        if dice.random() < 0.5:
            config, words = mutate.tree(dice, self.content["config"])
            (room.inputs / "best.pt").write_bytes(sealed({**self.content, "config": config}))
            return Input(words)
        section, key, values = dice.choice(_ABSURD)
        return self._with(room, section, key, dice.choice(values))

    def _with(self, room: Room, section: str, key: str, value: Any) -> Input:
        config = self.content["config"]
        changed = {**config, section: {**config[section], key: value}}
        (room.inputs / "best.pt").write_bytes(sealed({**self.content, "config": changed}))
        return Input(f"{section}.{key} = {value}")

    def read(self, room: Room, made: Input) -> None:
        images = [str(image) for image, _ in self.good.values()]
        arguments = ["--model", str(room.inputs / "best.pt"), "--out", str(room.outputs), "--device", "cpu"]
        code = main(["-q", "predict", *images, *arguments, "--backend", "torch", "--no-preview", "--max-ram-gb", "1"])
        require(code in {*_EXITS, *_MODEL_EXITS}, f"exit code {code}")
        require(not made.expected or code == 0, "the undamaged model is refused")
        masks = [mask_path(room.outputs, name) for name in self.good]
        require((code == 0) == all(path.exists() for path in masks), f"exit code {code}, but not all masks are there")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def of(section: str, key: str, value: Any) -> Callable[[Room], Input]:
            return lambda room: self._with(room, section, key, value)

        return {f"{key} = {values[0]}": of(section, key, values[0]) for section, key, values in _ABSURD}


_MODEL_EXITS = (2, 4)
_ABSURD: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("grid", "spacing_mm", ([1e-6] * 3, [1e-300, 1, 1], [0.01] * 3, [1e6] * 3, [1e300] * 3, [5, 5, 1e-3])),
    ("grid", "window_hu", ([-1e308, 1e308], [0, 1e-300], [1e300, 1.1e300])),
    ("sampling", "patch_voxels", ([4096] * 3, [2**40] * 3, [1024, 1024, 1024], [16, 16, 10**9])),
    ("sampling", "margin_voxels", ([10**12] * 3, [10**4] * 3, [0, 0, 10**30])),
    ("network", "channels", ([10**6] * 2, [10**9, 10**9], [4] * 7, [2**62, 2])),
    ("inference", "windows_per_batch", (10**9, 10**30, 1000)),
    ("inference", "overlap", (0.999999, 0.9999999999999999, 0.99)),
    ("network", "residual_units", (8,)),
)


class Batches(_Commands):
    """``check``, ``evaluate``, ``convert`` and ``slices`` over damaged files, odd names and impossible corrections."""

    name = "batches"
    share = 500
    refusals = ()

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.masks = originals / "masks"
        self.masks.mkdir()
        for name, (_, mask) in self.good.items():
            mask_path(self.masks, name).write_bytes(mask.read_bytes())
        mask_path(self.masks, "m").write_bytes(self.good["a"][1].read_bytes())

    def intact(self, room: Room) -> Input:
        return Input("check: intact", ("check", self.lay_out(room, self.scan)))

    def write(self, dice: Dice, room: Room) -> Input:
        kind = dice.randrange(4)
        if kind == 0:
            scan, words = damaged_file(dice, self.scan)
            index = self.lay_out(room, scan)
        elif kind == 1:
            mask, words = damaged_file(dice, self.mask)
            index = self.lay_out(room, self.scan, mask)
        elif kind == 2:
            name = dice.choice(_NAMES)
            index, words = self.lay_out(room, self.scan, name=name), f"a case called {name[:20]!r}"
        else:
            index, words = self._odd_row(dice, room)
        command = dice.choice(("check", "check", "evaluate", "evaluate", "convert", "slices"))
        return Input(f"{command}: {words}", (command, index))

    def _odd_row(self, dice: Dice, room: Room) -> tuple[Path, str]:
        index = self.lay_out(room, self.scan)
        rows = [json.loads(line) for line in index.read_text().splitlines()]
        odd = {
            "relabel": dice.choice(([[19, 300]], [[19, 10**9]], [[19, -1]], [[300, 1]], [[10**30, 3]], [[0, 5]])),
            "image": dice.choice(("a\0b.nii.gz", "\ud800.nii", "x" * 300 + ".nii", "/dev/zero", "/", ".", "a.txt")),
            "mask": dice.choice(("a\0b.nii.gz", "\udcff.nii", "y" * 5000 + ".nii", "/dev/full", "/proc/self/mem")),
            "centroids": dice.choice(("\0", "/dev/zero", "/", "z" * 300)),
            "split": "train",
            "notes": ["=1+1", "\x1b[2J", "<script>", "\ud800"],
            "fold": dice.choice((10**30, -1)),
        }
        key = dice.choice(list(odd))
        rows[1][key] = odd[key]
        return self.write_rows(room, rows), f"{key} = {str(odd[key])[:30]!r}"

    def read(self, room: Room, made: Input) -> None:
        command, index = made.expected
        out, findings = room.outputs / "out", room.outputs / "findings.json"
        arguments = {
            "check": ["check", str(index), "--json", str(findings), "--no-cache", "--workers", "1"],
            "evaluate": ["evaluate", "--pred", str(self.masks), "--truth", str(index), "--out", str(out / "s.json"),
                         "--scheme", "vertebrae"],
            "convert": ["convert", str(index), "--to", "verse", "--out", str(out)],
            "slices": ["slices", str(index), "--out", str(out), "--workers", "1"],
        }  # fmt: skip
        code = main(["-q", *arguments[command]])
        require(code in _EXITS, f"exit code {code}")
        if command == "evaluate" and (out / "s.json").exists():
            scored = [case["case"] for case in json.loads((out / "s.json").read_text())["cases"]]
            require({"a", "z"} <= set(scored), f"scored were only {scored}")
        if command == "check" and findings.exists():
            json.loads(findings.read_text())

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def with_values(command: str, **values: Any) -> Callable[[Room], Input]:
            def write(room: Room) -> Input:
                index = self.lay_out(room, self.scan)
                rows = [json.loads(line) for line in index.read_text().splitlines()]
                rows[1] |= values
                return Input(f"{command}: {str(values)[:60]}", (command, self.write_rows(room, rows)))

            return write

        values: dict[str, dict[str, Any]] = {
            "relabel out of range": {"relabel": [[19, 300]]},
            "NUL in a path": {"image": "a\0b.nii.gz"},
            "a surrogate in a path": {"image": "\ud800.nii.gz"},
            "a name of 300 characters": {"case": "n" * 300},
            "a device as a mask": {"mask": "/dev/zero"},
        }
        commands = ("check", "evaluate", "convert", "slices")
        return {
            f"{command}: {name}": with_values(command, **one) for command in commands for name, one in values.items()
        }
