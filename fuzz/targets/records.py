"""What earlier calls left beside masks and indexes: lists of predictions, and measurements of scans."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from fuzz.targets.tables import json_bombs, text_file, written
from verse3d.api.predicting import predict
from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.index.discover import load_cases
from verse3d.data.predictions import read_predictions
from verse3d.data.quality.checks import check_cases
from verse3d.data.quality.survey import cache_path, survey_cases
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.report.dataset_stats import CaseStats, summarise, write_table

_MARK = 12.5
"""An angle that no scan here has: it can only come from the cache."""


class Predictions(Target):
    """What ``predict`` leaves beside its masks: read by scoring, by the index and by the next ``predict``."""

    name = "predictions"
    share = 1000
    limits = Limits(cpu_s=3, memory_mb=150)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        image, mask = scans.write_scan(originals / "data", "a")
        self.truth = CaseIndex((Case("a", "a", image, mask),))
        scans.write_model(originals / "best.pt", scans.tiny_config())
        for part in (0, 1):  # the second finds nothing to do, and leaves its list behind
            predict(image, model=originals / "best.pt", out=originals / "masks", device="cpu", backend="torch",
                    parts=2, part=part)  # fmt: skip
        predict(image, model=originals / "best.pt", out=originals / "masks", device="cpu", backend="torch")
        self.files = {path.name: path.read_bytes() for path in (originals / "masks").iterdir() if path.is_file()}
        self.lists = sorted(name for name in self.files if name.startswith("predictions"))

    def intact(self, room: Room) -> Input:
        self._lay_out(room)
        return Input("intact", True)

    def write(self, dice: Dice, room: Room) -> Input:
        self._lay_out(room)
        name = dice.choice(self.lists)
        text = self.files[name].decode()
        if name.endswith(".json"):
            content, words = mutate.json_file(dice, json.loads(text))
        else:
            content, words = mutate.json_lines(dice, [json.loads(line) for line in text.splitlines()])
        written(room, name, content)
        return Input(f"{name}: {words}")

    def _lay_out(self, room: Room) -> None:
        for name, content in self.files.items():
            written(room, name, content)

    def read(self, room: Room, made: Input) -> None:
        index = load_cases([room.inputs, self.originals / "data"])
        taken = {case.mask.name for case in index if case.mask and case.mask.is_relative_to(room.inputs)}
        try:
            records = read_predictions(room.inputs).records.values()
        except DataError:
            require(not taken, "a mask was taken for the truth, although its list is damaged")
            raise
        predicted = {record.get("mask") for record in records if record["status"] == "written"}
        require(not taken & predicted, "a predicted mask was taken for the truth")
        result = evaluate_folder(room.inputs, self.truth, room.outputs / "scores.json")
        require(len(result.cases) + len(result.failures) == 1, "the case was neither scored nor listed")
        require(not made.expected or len(result.cases) == 1, "the case was not scored")
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

    def intact(self, room: Room) -> Input:
        marked = _sealed({**self.row, "survey": {**self.row["survey"], "oblique_degrees": _MARK}})
        cache_path(room.outputs / "cases.jsonl").write_text(json.dumps(marked) + "\n")
        return Input("intact, but with another angle", _MARK)

    def write(self, dice: Dice, room: Room) -> Input:
        content, words = mutate.json_lines(dice, [self.row])
        if dice.random() < 0.5:
            survey, words = mutate.tree(dice, self.row["survey"])
            content = (json.dumps(_sealed({**self.row, "survey": survey})) + "\n").encode("utf-8", "surrogatepass")
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
        require(made.expected in (None, survey.oblique_degrees), "the cache was not used, although nothing is wrong")
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
            return over(json.dumps(_sealed({**self.row, "survey": {**self.row["survey"], **values}})) + "\n")

        def without(row: dict[str, Any], name: str) -> dict[str, Any]:
            return {key: value for key, value in row["survey"].items() if key != name}

        gone = _sealed({**self.row, "survey": without(self.row, "spacing_mm")})
        return {
            "nested lists": over("[" * mutate.DEEP),
            "a shape of texts": changed(shape=["a", "b", "c"]),
            "an infinite spacing": changed(spacing_mm=[math.inf, 1, 1]),
            "a shape of two": changed(shape=[3, 4]),
            "a histogram of five": changed(hu_inside=[1, 2, 3, 4, 5]),
            "a label of no vertebra": changed(label_voxels={"999": 3}),
            "volumes without voxels": changed(label_ml={}),
            "axes of no world": changed(axis_codes="XYZ"),
            "a spacing that is gone": over(json.dumps(gone)),
        }


def _sealed(row: dict[str, Any]) -> dict[str, Any]:
    """A line of the cache with the hash of what it tells: it is damaged on purpose, not by a disk."""
    text = json.dumps([row["key"], row["survey"]], sort_keys=True)
    return {**row, "check": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _same_kind(right: object, found: object) -> bool:
    """Whether a value that was kept is of the kind that was measured: a number may be another one, nothing else may."""
    if isinstance(right, bool) or isinstance(found, bool):
        return type(right) is type(found)
    if isinstance(right, int | float):
        return isinstance(found, int | float) and math.isfinite(found)
    if isinstance(right, tuple):
        return isinstance(found, tuple)
    return isinstance(found, type(right)) or found is None
