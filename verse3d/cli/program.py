"""The program as a whole: its commands in the order of use and in groups, and options that may stand anywhere."""

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help shows no type for flags that take no value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's own click
        """The parameters, flags without a type."""
        return _without_types_of_flags(super().get_params(ctx))


class Program(TyperGroup):
    """The program itself, likewise."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's own click
        """The parameters, flags without a type."""
        return _without_types_of_flags(super().get_params(ctx))


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


_EVERYWHERE = ("-v", "--verbose", "-q", "--quiet")


OLD_FLAGS = {"--output": "--out", "--num-parts": "--parts", "--no-skip": "--no-skip-air"}
"""Flags that were called otherwise before 0.2; they go on working for a while."""


def as_typed_today(words: Sequence[str]) -> list[str]:
    """A command line with old flags under their new names, and with -v and -q before the command wherever they stood.

    ``predict a --num-parts=2 -v`` becomes ``-v predict a --parts=2``. What follows ``--`` is left alone.
    """
    # After "--" everything is a name: a scan may be called "-v".
    end = list(words).index("--") if "--" in words else len(words)
    moved, others = [], []
    for word in words[:end]:
        flag, equals, value = word.partition("=")
        if word in _EVERYWHERE:
            moved.append(word)
        else:
            others.append(OLD_FLAGS.get(flag, flag) + equals + value)
    return [*moved, *others, *words[end:]]


PANELS = {
    "Data": ("phantom", "download", "index", "check", "stats", "look", "convert", "slices"),
    "Training": ("prepare", "train"),
    "Using models": ("predict", "evaluate", "compare", "export", "relabel"),
    "Getting started": ("demo", "doctor"),
}


def in_order_of_use(program: typer.Typer) -> None:
    """Sort the commands, and give each its group in the help."""
    place = {name: (panel, number) for panel, names in PANELS.items() for number, name in enumerate(names)}
    order = list(place)

    def name_of(command: Any) -> str:  # noqa: ANN401 - typer's CommandInfo
        return str(command.name or command.callback.__name__)

    for command in program.registered_commands:
        command.cls = Command
        command.rich_help_panel = place.get(name_of(command), ("More", 0))[0]
    # Typer shows commands in the order of registration, which is that of imports.
    program.registered_commands.sort(
        key=lambda command: order.index(name_of(command)) if name_of(command) in place else len(order)
    )
