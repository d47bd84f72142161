"""What files are called does no harm on the terminal, in the log, in tables and pages, and in TensorBoard."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.scans import spine
from verse3d.cli import main
from verse3d.cli.tables import table
from verse3d.cli.terminal import SafeConsole
from verse3d.core import logs
from verse3d.data.cases import Case
from verse3d.data.index.overrides import apply_overrides, read_overrides
from verse3d.data.quality.fixes import Fix, _table
from verse3d.data.quality.record import CaseSurvey
from verse3d.report.dataset_stats import CaseStats, write_table
from verse3d.report.pictures import draw_case
from verse3d.training.monitor import Monitor
from verse3d.training.validate import ValidationResult

EVIL = "\x1b[2J\x1b]0;owned\x07[red]\u202egnp\rz\ud800"
HARMFUL = ("\x1b", "\x07", "\u202e", "\r", "\ud800")


def is_harmless(text: str) -> bool:
    return not any(character in text for character in HARMFUL)


@pytest.mark.parametrize("show", [str, Text, lambda name: Text.assemble(name, style="red")])
def test_nothing_that_is_printed_acts_on_the_terminal(capsys, show):
    console = SafeConsole(width=200)
    console.print(show(f"case {EVIL}: broken"))
    rows = table("case", title=EVIL)
    rows.add_row(EVIL)
    rows.add_row(f"{EVIL}\nsecond line")
    console.print(rows)
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert "\\x1b[2J" in shown and "[red]" in shown and "\\u202egnp" in shown
    assert "\\x0asecond line" in shown


def test_colours_of_our_own_still_reach_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    SafeConsole().print("error", style="bold red")
    assert "\x1b[1;31merror" in capsys.readouterr().out


def test_log_records_are_escaped_and_no_name_can_fake_a_record(tmp_path, capsys):
    logs.log_to_terminal(Console(stderr=True, width=200), logging.INFO)
    handler = logs.log_to_file(tmp_path / "log.txt")
    logs.logger("verse3d.x").error("%s failed", f"{EVIL}\n2026-01-01 00:00:00,000 INFO all is well")
    logs.stop_logging(handler)
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert is_harmless(text) and is_harmless(capsys.readouterr().err)
    assert [line[:4] for line in text.splitlines()][1] == "    "


# Half a character is refused with the line of the index, and so is asked for alone.
@pytest.mark.parametrize(
    "shown_as",
    [{EVIL: r"\u202egnp"}, {"[red]x": "[red]x", "脊椎": r"\u810a\u690e", "a\nerror: fake": "error: fake"}],
    ids=["refused", "listed"],
)
def test_a_command_shows_strange_names_also_on_a_terminal_of_ascii(tmp_path, shown_as):
    spine().write(tmp_path / "a.nii.gz")
    rows = [json.dumps({"case": name, "image": "a.nii.gz"}) + "\n" for name in shown_as]
    (tmp_path / "cases.jsonl").write_text("".join(rows))
    done = subprocess.run(
        [sys.executable, "-m", "verse3d", "check", str(tmp_path / "cases.jsonl"), "--no-cache"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "COLUMNS": "200"},
    )
    shown = (done.stdout + done.stderr).decode("ascii")
    assert "Traceback" not in shown, shown
    assert is_harmless(shown)
    assert all(words in shown for words in shown_as.values())
    assert not any(line.startswith("error: fake") for line in shown.splitlines())


def test_a_name_that_is_a_formula_goes_through_fixes_csv_and_back(tmp_path):
    name = "=HYPERLINK(1)"
    (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    path = tmp_path / "fixes.csv"
    path.write_text(_table([Fix(name, "relabel", "8>9", "-note")]))
    with path.open(newline="") as handle:
        assert next(csv.DictReader(handle))["case"] == f"'{name}"
    applied = apply_overrides([Case(name, name, Path("a"), Path("b"))], read_overrides(path))
    assert applied.unmatched == ()
    assert applied.cases[0].relabel == ((8, 9),)


def test_the_table_of_a_data_set_holds_no_formula(tmp_path):
    write_table(tmp_path / "stats.csv", [CaseStats(Case("@SUM(1)", "-1+1", None), CaseSurvey("@SUM(1)"))])
    (row,) = csv.DictReader((tmp_path / "stats.csv").read_text().splitlines())
    assert (row["case"], row["subject"]) == ("'@SUM(1)", "'-1+1")


def test_a_case_whose_name_is_half_a_formula_is_drawn(tmp_path):
    spine().write(tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    case = Case("a", "a", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    picture = draw_case(case, tmp_path / "m.nii.gz", tmp_path / "a.png", title=rf"$\frac$ {EVIL}")
    assert picture.stat().st_size > 1000


def test_a_strange_name_is_a_tag_of_tensorboard(tmp_path):
    with Monitor(tmp_path) as monitor:
        monitor.validation(1, ValidationResult({EVIL: 0.5}, {}))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.startswith("validation_dice/")]
    assert is_harmless(tag) and "\\x1b" in tag


PIPES = {
    "check an index": ["check", "PIPE"],
    "check a scan": ["check", "PIPE.nii.gz"],
    "predict": ["predict", "PIPE.nii.gz", "--model", "PIPE.pt", "--out", "OUT"],
    "predict with a model": ["predict", "SCAN", "--model", "PIPE.pt", "--out", "OUT"],
    "train with a config": ["train", "--data", "SCAN", "--config", "PIPE.yaml", "--out", "OUT"],
    "train on an index": ["train", "--data", "PIPE.jsonl", "--out", "OUT"],
    "index a zip": ["index", "PIPE.zip", "-o", "OUT"],
    "index": ["index", "PIPE", "-o", "OUT"],
    "look": ["look", "PIPE.nii.gz", "--out", "OUT.png"],
    "look with a mask": ["look", "SCAN", "--mask", "PIPE.nii.gz", "--out", "OUT.png"],
    "evaluate": ["evaluate", "--pred", "FOLDER", "--truth", "PIPE.jsonl", "--out", "OUT.json"],
    "stats": ["stats", "PIPE.jsonl", "--out", "OUT"],
    "slices": ["slices", "PIPE.jsonl", "--out", "OUT"],
}


@pytest.mark.parametrize("what", PIPES)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, capsys, what):
    spine().write(tmp_path / "SCAN.nii.gz")
    (tmp_path / "FOLDER").mkdir()
    arguments = []
    for text in PIPES[what]:
        path = tmp_path / ("SCAN.nii.gz" if text == "SCAN" else text)
        if text.startswith("PIPE") and not path.exists():
            os.mkfifo(path)
        arguments.append(str(path) if text.isupper() or ("." in text and text.split(".")[0].isupper()) else text)
    assert main(["-q", *arguments]) in (2, 3, 4)  # an open pipe without a writer would wait for ever
    assert "Traceback" not in capsys.readouterr().err
