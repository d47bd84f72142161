"""The text of a config: where it lies, what is set on top of it, and what is wrong with it in words."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import is_file
from verse3d.core.readers import read_text
from verse3d.core.wording import brief, clipped, how_many
from verse3d.core.yaml12 import MAX_CHARACTERS, MAX_DEPTH, parse_yaml

_SHOWN_PROBLEMS = 30


def find_config(name_or_path: str | Path) -> Path:
    """The file of that path, or the shipped config of that name.

    Raises:
        ConfigError: neither exists; the shipped names are listed.
    """
    path = Path(name_or_path)
    if is_file(path):
        return path
    # Inside the installed package, or beside it in a source checkout.
    package = Path(str(resources.files("verse3d")))
    folders = (package / "configs", package.parent / "configs")
    shipped = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    # A name, not a path: "configs/unet3d" that is missing must not turn into the shipped one.
    if path.name == str(name_or_path) and path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    nearest = _nearest(path.stem, shipped)
    raise ConfigError(
        f"config {brief(str(name_or_path))} is neither a file nor one of {', '.join(sorted(shipped))}",
        hint=f"did you mean {nearest!r}?" if nearest else "",
    )


def read_config(path: Path) -> str:
    """The text of a config.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        return read_text(path, max_bytes=4 * MAX_CHARACTERS)  # of UTF-8, which takes up to four bytes for a character
    except DataError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Set dotted keys in ``values``; returns what was wrong."""
    problems = []
    for override in overrides:
        # "a.b=c=d" sets a.b to "c=d": only the first "=" parts them.
        key, equals, text = override.partition("=")
        *sections, last = key.strip().split(".")
        if not (equals and last and all(sections)) or len(sections) > MAX_DEPTH:
            problems.append(f"{brief(override)} is not of the form section.key=value")
            continue
        try:
            value = parse_yaml(text, clipped(key.strip()))
        except ConfigError as error:
            problems.append(error.message)
            continue
        place = values
        for section in sections:
            inner = place.get(section)
            # A copy: sections that are given in the config may belong to somebody.
            place[section] = dict(inner) if isinstance(inner, dict) else {}
            place = place[section]
        place[last] = value
    return problems


def described(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    """A problem of values for ``model`` in words; an unknown setting comes with the nearest spelling."""
    place = ".".join(clipped(str(part), 60) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        nearest = _nearest(str(problem["loc"][-1]), _known_keys(problem["loc"][:-1], model))
        return f"{place}: unknown setting" + (f"; did you mean {nearest!r}?" if nearest else "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place}: {message[0].lower()}{message[1:]}, got {brief(problem['input'])}"


def _known_keys(location: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """The settings that a section has; ``location`` is the path to the section."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _nearest(word: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(clipped(word), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def all_problems(source: str, problems: Sequence[str]) -> str:
    """All problems of a source, a line each; of very many the first."""
    shown = problems[:_SHOWN_PROBLEMS]
    lines = [f"{source} has {how_many(len(problems), 'problem')}:", *(f"  - {problem}" for problem in shown)]
    if len(problems) > len(shown):
        lines.append(f"  ... and {len(problems) - len(shown)} more")
    return "\n".join(lines)
