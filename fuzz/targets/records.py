"""What earlier calls left beside masks and indexes: lists of predictions, and measurements of scans."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from fuzz.targets.tables import json_bombs, text_file, written
from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.checks import check_cases
from verse3d.data.layouts import load_cases
from verse3d.data.predictions import predictions_file, read_predictions
from verse3d.data.survey import cache_path, survey_cases
from verse3d.report.evaluation import evaluate_folder
from verse3d.report.stats import CaseStats, summarise, write_table

LISTS = ("predictions.json", predictions_file(0, 2), predictions_file(1, 2))


def _record(name: str, image: str) -> dict[str, Any]:
    return {
        "case": name, "image": image, "mask": f"{name}_seg-vert_msk.nii.gz", "status": "written", "error": "",
        "seconds": 1.5, "seconds_of": {"read": 0.1, "network": 1.1}, "peak_rss_mb": 700.5,
        "plan": {"limit_mb": 4000.0, "planned_mb": 900.0}, "windows": 12, "windows_left_out": 3, "voxels": 7800,
        "labelled_voxels": 945, "levels": ["vertebra"], "warnings": [], "model_sha256": "0" * 64,
    }  # fmt: skip


class Predictions(Target):
    """``predictions.json`` and its parts: read by scoring, by the index and by the next ``predict``."""

    name = "predictions"
    share = 1000
    limits = Limits(cpu_s=3, memory_mb=150)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.scan, self.mask = (path.read_bytes() for path in scans.write_scan(originals / "data", "a"))
        image, mask = scans.write_scan(originals / "data", "a")
        self.truth = CaseIndex((Case("a", "a", image, mask),))
        self.list = {"model": ["best.pt"], "scheme": "vertebrae", "device": "cpu", "backend": "torch",
                     "limit_mb": 4000.0, "cases": [_record("a", str(image)), _record("b", "b.nii.gz")]}  # fmt: skip

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_file(dice, self.list)
        name = dice.choice(LISTS)
        self._lay_out(room)
        written(room, name, content)
        return Input(f"{name}: {words}")

    def _lay_out(self, room: Room) -> None:
        written(room, "a_seg-vert_msk.nii.gz", self.mask)

    def read(self, room: Room, made: Input) -> None:
        index = load_cases([room.inputs, self.originals / "data"])
        taken = {case.mask.name for case in index if case.mask and case.mask.is_relative_to(room.inputs)}
        try:
            records = read_predictions(room.inputs).records.values()
        except DataError:
            require(not taken, "a mask was taken for the truth, although its list is damaged")
            raise
        predicted = {record["mask"] for record in records if record["status"] == "written"}
        require(not taken & predicted, "a predicted mask was taken for the truth")
        result = evaluate_folder(room.inputs, self.truth, room.outputs / "scores.json")
        require(len(result.cases) + len(result.failures) == 1, "the case was neither scored nor listed")
        scores = json.loads((room.outputs / "scores.json").read_text())
        require(isinstance(scores["cases"], list), "no scores")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def beside(write: Callable[[Room], Input]) -> Callable[[Room], Input]:
            def all_of_it(room: Room) -> Input:
                self._lay_out(room)
                return write(room)

            return all_of_it

        texts = {
            "a list without cases": "{}",
            "seconds that are infinite": '{"cases": [{"case": "a", "status": "written", "seconds": 1e999}]}',
            "cases that are no records": '{"cases": [1, null, []]}',
        }
        made = json_bombs("predictions.json") | {
            name: text_file("predictions.json", text) for name, text in texts.items()
        }
        return {name: beside(write) for name, write in made.items()}


class Surveys(Target):
    """The cache of ``check`` and ``stats``: whatever is in it, both commands do their work."""

    name = "surveys"
    share = 700
    limits = Limits(cpu_s=3, memory_mb=200)
    refusals = ()

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.files = {path.name: path for path in scans.write_scan(originals, "a")}
        ct, mask = self.files.values()
        self.index = CaseIndex((Case("a", "a", ct, mask),))
        cache = originals / "cases.survey.jsonl"
        self.survey = next(survey_cases(self.index.cases, workers=1, cache=cache))
        self.row = json.loads(cache.read_text().splitlines()[0])
        write_index(originals / "cases.jsonl", self.index)

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_lines(dice, [self.row])
        cache_path(room.outputs / "cases.jsonl").write_bytes(content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        cache = cache_path(room.outputs / "cases.jsonl")
        report = check_cases(self.index, workers=1, cache=cache)
        json.dumps(report.to_dict())
        survey = next(survey_cases(self.index.cases, workers=1, cache=cache))
        for name, value in vars(self.survey).items():
            kept = getattr(survey, name)
            require(_same_kind(value, kept), f"{name} is {str(kept)[:80]!r} instead of {str(value)[:80]!r}")
        measured = [CaseStats(self.index.cases[0], survey)]
        write_table(room.outputs / "stats.csv", measured)
        summarise(measured)

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def over(content: str) -> Callable[[Room], Input]:
            def write(room: Room) -> Input:
                cache_path(room.outputs / "cases.jsonl").write_text(content)
                return Input(f"{content[:40]!r} ...")

            return write

        def changed(**values: Any) -> Callable[[Room], Input]:
            return over(json.dumps({**self.row, "survey": {**self.row["survey"], **values}}) + "\n")

        return {
            "nested lists": over("[" * mutate.DEEP),
            "a shape of texts": changed(shape=["a", "b", "c"]),
            "an infinite spacing": changed(spacing_mm=[math.inf, 1, 1]),
            "a shape of two": changed(shape=[3, 4]),
            "a histogram of five": changed(hu_inside=[1, 2, 3, 4, 5]),
            "a label of no vertebra": changed(label_voxels={"999": 3}),
            "volumes without voxels": changed(label_ml={}),
            "axes of no world": changed(axis_codes="XYZ"),
        }


def _same_kind(right: object, found: object) -> bool:
    """Whether a value that was kept is of the kind that was measured: a number may be another one, nothing else may."""
    if isinstance(right, bool) or isinstance(found, bool):
        return type(right) is type(found)
    if isinstance(right, int | float):
        return isinstance(found, int | float) and math.isfinite(found)
    if isinstance(right, tuple):
        return isinstance(found, tuple)
    return isinstance(found, type(right)) or found is None
