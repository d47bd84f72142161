"""The files of a run: config.yaml, cases.jsonl, history.csv, log.txt, last.pt, best.pt and tensorboard/."""

import csv
import io
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verse3d.core.config import Config, load_config
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import make_folder, remove_leftovers, write_text
from verse3d.core.readers import MEGABYTE, Row, read_table
from verse3d.core.wording import brief

_FOLD = re.compile("fold(0|[1-9][0-9]{0,3})")
_HISTORY_BYTES = 64 * MEGABYTE
_HISTORY_HINT = "it is written by verse3d train; edit a copy instead"
_MAY_CHANGE = {
    "optim.epochs",
    "runtime.workers",
    "runtime.save_minutes",
    "runtime.deterministic",
    "runtime.compile",
    "runtime.cuda_graph",
    "validation.pictures",
    "validation.time_share",
}
"""Settings that may differ when a run is resumed."""

_OURS = "# The complete config of this run"
"""How every version of verse3d has begun the config of a run: one that begins otherwise was written by somebody."""
_CONFIG_HEAD = f"{_OURS}: hand this file to verse3d train as its config, and the same is trained again.\n"


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def cases(self) -> Path:
        """The index with the split that was used."""
        return self.path / "cases.jsonl"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.path / "history.csv"

    @property
    def log(self) -> Path:
        """What was logged."""
        return self.path / "log.txt"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from, written every few minutes and after epochs."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint to predict with: the best whole-volume validation so far."""
        return self.path / "best.pt"

    @property
    def bad_batch(self) -> Path:
        """The batch whose loss was no number, if there was one."""
        return self.path / "bad_batch.pt"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def store(self) -> Path:
        """Prepared cases, if they are not kept elsewhere."""
        return self.path / "cases.store"

    @property
    def store_note(self) -> Path:
        """Where the prepared cases are kept."""
        return self.path / "store.txt"

    @property
    def holds_a_run(self) -> bool:
        """Whether anything is here that could be lost: something learnt, or a config that somebody wrote."""
        learnt = (self.last, self.best, self.history)
        if any(file.exists() for file in learnt):
            return True
        if not self.config.exists():
            return False
        return not self.config.read_text(errors="replace").startswith(_OURS)


def fold_folder(out: Path, fold: int) -> Path:
    """The run folder of a fold, below the folder of a cross-validation."""
    return out / f"fold{fold}"


def fold_folders(out: Path) -> tuple[Path, ...]:
    """The run folders of a cross-validation, in the order of the folds; nothing if the folder holds none."""
    # By number: as texts fold10 would come before fold2.
    numbers = [int(run.name.removeprefix("fold")) for run in out.glob("fold*") if _FOLD.fullmatch(run.name)]
    return tuple(fold_folder(out, number) for number in sorted(numbers))


def start_folder(path: Path, config: Config, *, overwrite: bool) -> RunFolder:
    """Make the folder of a new run and store its config.

    Raises:
        DataError: it holds a run already and ``overwrite`` is not set.
        OutputError: it cannot be written to.
    """
    folder = RunFolder(path)
    if folder.holds_a_run and not overwrite:
        raise DataError(
            f"{path} already holds a run",
            hint="go on with `resume`, replace it with `overwrite`, or choose another `out`",
            option="out",
        )
    make_folder(path)
    remove_leftovers(path)
    # Only files of a run: whatever else lies in the folder is not ours.
    for file in (folder.last, folder.best, folder.history, folder.log, folder.bad_batch):
        file.unlink(missing_ok=True)
    # Curves of the old run would be drawn into those of the new one.
    for made_from_it in (folder.tensorboard, *(model.with_suffix(".openvino") for model in (folder.last, folder.best))):
        shutil.rmtree(made_from_it, ignore_errors=True)
    write_text(folder.config, _CONFIG_HEAD + config.to_yaml())
    return folder


def find_run(path: Path) -> RunFolder:
    """The folder of a run that can be resumed.

    Raises:
        DataError: there is none.
    """
    folder = RunFolder(path)
    if not folder.config.is_file() or not folder.last.is_file():
        raise DataError(f"{path} holds no run to resume", hint="start one without `resume`", option="resume")
    return folder


def resume_folder(path: Path, config: Config) -> RunFolder:
    """The folder of a run to go on with; what may change is taken from ``config`` and stored.

    Raises:
        DataError: there is no run to resume.
        ConfigError: ``config`` differs from the run's in something that would make it another run.
    """
    folder = find_run(path)
    remove_leftovers(path)
    stored = load_config(folder.config)
    if stored.mode != config.mode:
        raise ConfigError(
            f"{path} is a run of mode {stored.mode}, not {config.mode}",
            hint=f"resume it with its own config, for mode {stored.mode}, or start a new run in another folder",
        )
    differences = setting_differences(stored.to_dict(), config.to_dict())
    changed = [key for key in differences if key not in _MAY_CHANGE]
    if changed:
        raise ConfigError(
            f"{path} was trained with other settings: {', '.join(changed)}",
            hint="resume without changing them, or start a new run in another folder",
        )
    if differences:
        write_text(folder.config, _CONFIG_HEAD + config.to_yaml())
    return folder


def setting_differences(old: Mapping[str, Any], new: Mapping[str, Any], place: str = "") -> list[str]:
    """The dotted names of the settings in which two configs (as dicts) differ."""
    different = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            different += setting_differences(before, after, f"{place}{key}.")
        elif before != after:
            different.append(f"{place}{key}")
    return different


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write all rows as CSV, whole or not at all; undefined numbers, and those of older versions, are empty cells."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[-1]), restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: "" if math.isnan(value) else f"{value:.6g}" for key, value in row.items()})
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Inverse of ``write_history``; empty cells are NaN.

    Raises:
        DataError: the file cannot be read, or is no table of numbers.
    """
    rows = read_table(path, needs=("epoch",), max_bytes=_HISTORY_BYTES, what="the history", hint=_HISTORY_HINT)
    return [_numbers(row, f"cannot read the history {path}: line {row.line}") for row in rows]


def _numbers(row: Row, place: str) -> dict[str, float]:
    if row.surplus:
        raise DataError(f"{place} has {row.surplus} cells too many", hint=_HISTORY_HINT)
    try:
        return {column: float(cell) if cell else math.nan for column, cell in row.cells.items()}
    except ValueError:
        wrong = next(cell for cell in row.cells.values() if cell and not _is_number(cell))
        raise DataError(f"{place}: {brief(wrong)} is no number", hint=_HISTORY_HINT) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def run_folder_of(checkpoint: Path) -> RunFolder | None:
    """The run folder that a checkpoint lies in; None if it lies somewhere else."""
    folder = RunFolder(checkpoint.absolute().parent)
    if checkpoint.name not in (folder.best.name, folder.last.name):
        return None
    if not (folder.config.is_file() and folder.history.is_file()):
        return None
    return folder


def history_of(checkpoint: Path) -> tuple[Mapping[str, float], ...]:
    """The history of the run that a checkpoint belongs to; nothing if it is not known or damaged."""
    folder = run_folder_of(checkpoint)
    if folder is None:
        return ()
    try:
        return tuple(read_history(folder.history))
    except DataError:
        return ()
