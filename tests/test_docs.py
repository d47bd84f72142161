"""What the documentation says is what the program does."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import typer

from verse3d.cli import app
from verse3d.core.config import Config

DOCUMENTED = [
    "core.geometry",
    "core.files",
    "core.labels",
    "core.resample",
    "core.yaml12",
    "data.convert.names",
    "data.index.verse_names",
    "model.windows",
]
ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def _settings(values: dict[str, object], place: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _settings(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
    return flat


def test_usage_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", (ROOT / "docs/usage.md").read_text(), flags=re.MULTILINE)
    defaults = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in rows}
    expected = _settings(Config().to_dict())
    as_yaml = {True: "true", False: "false", None: "null"}
    assert defaults == {
        key: as_yaml[value] if isinstance(value, bool | None) else str(value) for key, value in expected.items()
    }


def test_every_command_of_the_program_is_described_in_usage() -> None:
    text = (ROOT / "docs/usage.md").read_text() + (ROOT / "README.md").read_text()
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"verse3d {name}" in text or f"make {name}" in text, name


def test_the_commands_of_readme_and_usage_have_only_options_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for file in DOCUMENTS:
        text = (ROOT / file).read_text().replace("\\\n", " ")
        for name, rest in re.findall(r"verse3d (\w+)([^`\n|#]*)", text):
            if name in commands:
                known = {option for parameter in commands[name].params for option in parameter.opts}
                assert set(re.findall(r"(?<![\w-])(--[a-z-]+)", rest)) <= known, f"{file}: verse3d {name}{rest}"


@pytest.mark.parametrize("file", DOCUMENTS)
def test_links_between_documents_lead_somewhere(file: str) -> None:
    path = ROOT / file
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{file} links to {target}"


@pytest.mark.parametrize("module", DOCUMENTED)
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"verse3d.{module}"))
    assert result.attempted and not result.failed
