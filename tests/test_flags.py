"""The library names options as Python callers know them, and the command line shows each as it is typed there."""

import ast
import inspect
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

import verse3d
from verse3d import api
from verse3d.api.programs import command_line
from verse3d.cli import app, main
from verse3d.cli.flags import Speech
from verse3d.cli.terminal import complain
from verse3d.core.errors import ConfigError, DataError, OutputError, Verse3dError
from verse3d.core.logs import logger

PACKAGE = Path(verse3d.__file__).parent
COMMANDS = {name: command.params for name, command in typer.main.get_command(app).commands.items()}
OPTION = re.compile(r"(?<!`)`([a-z][a-z_]*)(?:=[^`]*)?`")


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("predict", "at least 0.5 GB: raise `max_ram_gb`", "at least 0.5 GB: raise --max-ram-gb"),
        ("predict", "allow `max_ram_gb=2.5` or more", "allow --max-ram-gb 2.5 or more"),
        ("train", "use `sampling.batch_size=4`", "use --set sampling.batch_size=4"),
        ("train", "`resume` and `overwrite` cannot be combined", "--resume and --overwrite cannot be combined"),
        ("train", "`overrides` has 2 problems", "--set has 2 problems"),
        ("index", "`overrides` has 2 problems", "--overrides has 2 problems"),
        ("look", "e.g. `out=look.png`", "e.g. --out look.png"),
        ("convert", "use `links=False`", "use --copy"),
        ("convert", "use `links=True`", "use --links"),
        ("download", "fetch less with `years`", "fetch less with --years"),
        ("train", "`verse3d.index(DATA, out='a b.jsonl', folds=5)`", "verse3d index DATA --out a b.jsonl --folds 5"),
        ("predict", "`verse3d.predict(overwrite=True)` again", "verse3d predict --overwrite again"),
        ("compare", "`verse3d.index(assign=...)` does", "verse3d index --assign ... does"),
    ],
)
def test_an_option_a_setting_and_a_job_are_shown_as_they_are_typed(command, text, shown):
    assert Speech(COMMANDS, command).say(text) == shown


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("", "raise `max_ram_gb`"),  # no command runs
        ("check", "raise `max_ram_gb`"),  # not an option of this one
        ("check", "use `optim.lr=3e-4`"),  # takes no settings
        ("predict", "`scans` is empty"),  # an argument without a flag
        ("predict", "`/data/a.nii.gz`, `a b` and `"),
        ("predict", "`verse3d.fly(high=True)`"),
        ("predict", "`verse3d.index(wings=2)`"),
        ("predict", "`verse3d.index(folds=)`"),
        ("predict", "`verse3d.index()()`"),
        ("predict", "`verse3d.index(**more)`"),
    ],
)
def test_what_a_command_does_not_know_stays_as_it_is(command, text):
    assert Speech(COMMANDS, command).say(text) == text


def test_an_error_names_its_option_to_python_and_its_flag_to_the_terminal(tmp_path, capsys):
    with pytest.raises(ConfigError) as caught:
        api.predict(tmp_path / "ct.nii.gz", model=tmp_path / "m.pt", out=tmp_path / "masks", max_ram_gb=-1)
    assert caught.value.option == "max_ram_gb" and "--" not in str(caught.value)
    words = ["predict", str(tmp_path / "ct.nii.gz"), "--model", "m.pt", "--out", "masks", "--max-ram-gb", "-1"]
    assert main(words) == 2
    assert "--max-ram-gb must be above 0, got -1" in capsys.readouterr().err


def test_a_flag_that_neither_text_names_is_shown_below_them(capsys):
    assert main(["index", "nowhere", "-o", "x.jsonl"]) == 3  # the terminal speaks for index from here on
    capsys.readouterr()
    complain(DataError("there is no space", hint="make some", option="unpack"))
    complain(DataError("there is no space", hint="choose another `unpack`", option="unpack"))
    complain(DataError("there is no space", option="max_ram_gb"))
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "error: there is no space",
        "  hint: make some",
        "  option: --unpack",
        "error: there is no space",
        "  hint: choose another --unpack",
        "error: there is no space",
    ]


def test_log_records_speak_in_flags_on_the_terminal_and_in_options_in_the_log_file(tmp_path, monkeypatch, capsys):
    def check(*_, **__):
        logger("test").warning("a.nii.gz is kept (`json` says why)")
        raise ConfigError("stop here")

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("verse3d").addHandler(handler)
    monkeypatch.setattr(api, "check", check)
    try:
        assert main(["check", "x.jsonl"]) == 2
    finally:
        logging.getLogger("verse3d").removeHandler(handler)
    assert "a.nii.gz is kept (--json says why)" in " ".join(capsys.readouterr().err.split())
    assert records == ["a.nii.gz is kept (`json` says why)"]


@dataclass(frozen=True)
class Named:
    where: str
    option: str


def is_speech(called):
    """Whether ``called(...)`` makes an error (of any class, from any module) or a log record."""
    name = getattr(called, "attr", getattr(called, "id", ""))
    return name.endswith("Error") or getattr(getattr(called, "value", None), "id", "") == "_log"


def named_options():
    """Every option that an error or a log record below the command line names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "cli" in path.relative_to(PACKAGE).parts or not re.search(r"Error\(|_log\.", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not is_speech(node.func):
                continue
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            yield from (Named(where, option) for option in OPTION.findall(ast.unparse(node)))
            for keyword in node.keywords:
                if keyword.arg == "option" and isinstance(keyword.value, ast.Constant):
                    yield Named(where, keyword.value.value)


def test_every_option_that_the_library_names_is_one_of_its_functions_and_of_a_command():
    named = list(named_options())
    assert len(named) > 50
    arguments = {name for job in api.__all__ for name in signature(getattr(api, job))}
    assert [one for one in named if one.option not in arguments] == []
    speeches = [Speech(COMMANDS, command) for command in COMMANDS]
    assert [one for one in named if not any(speech.flag(one.option) for speech in speeches)] == []


def signature(job):
    return inspect.signature(job).parameters if inspect.isfunction(job) else ()


def test_a_command_line_has_a_flag_for_what_is_set_and_none_for_what_is_not():
    line = command_line("predict", Path("a b.nii"), max_ram_gb=2.5, tta=True, overwrite=False, split=None, part=0)
    assert line == ["predict", "a b.nii", "--max-ram-gb", "2.5", "--tta", "--part", "0"]


@pytest.mark.parametrize("kind", [Verse3dError, ConfigError, DataError, OutputError])
def test_every_error_has_an_option_and_its_text_stays_the_same(kind):
    error = kind("a message", hint="a hint", option="out")
    assert error.option == "out" and str(error) == "a message\n  hint: a hint"
    assert kind("a message").option == ""
