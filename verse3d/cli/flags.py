"""Texts of the library as the user of the command line would say them: options become flags, jobs become commands.

    `max_ram_gb`                               --max-ram-gb
    `max_ram_gb=8`                             --max-ram-gb 8
    `optim.lr=3e-4`                            --set optim.lr=3e-4
    `verse3d.index(DATA, out='a.jsonl')`       verse3d index DATA --out a.jsonl

What the running command does not know stays as it is: it is not the user's to change there.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

_IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"([a-z][a-z0-9_]*)(?:=(.*))?")
_SETTING = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+=.*")
_CALL = re.compile(r"verse3d\.([a-z]+)\(.*\)")
_OTHER_NAMES = {"overrides": "set_"}
"""Arguments of the functions that the command line calls otherwise."""


class Parameter(Protocol):
    """An option or an argument, as far as its names go."""

    @property
    def name(self) -> str | None:
        """The name of the function's argument."""

    @property
    def opts(self) -> Sequence[str]:
        """How it is typed; an argument without a flag stands there by its name."""

    @property
    def secondary_opts(self) -> Sequence[str]:
        """How its opposite is typed, if it has one."""


class Speech:
    """Says things for one command, and knows the options of all of them.

    Args:
        commands: the parameters of every command, by its name.
        command: the one that runs; "" if there is none yet.
    """

    def __init__(self, commands: Mapping[str, Sequence[Parameter]], command: str = "") -> None:
        self._commands = commands
        self._command = command

    @property
    def command(self) -> str:
        """The one that runs."""
        return self._command

    def say(self, text: str) -> str:
        """``text`` with flags instead of options, settings and jobs in backticks."""
        # "raise `max_ram_gb`" -> "raise --max-ram-gb"; what cannot be said stays as it is, backticks and all
        return _IN_BACKTICKS.sub(lambda found: self._said(found[1]) or found[0], text)

    def flag(self, option: str) -> str:
        """How the option of the running command is typed; "" if it has none of that name."""
        return _flag(self._commands.get(self._command, ()), option, None)

    def _said(self, words: str) -> str:
        parameters = self._commands.get(self._command, ())
        # Three ways to be in backticks: an option, a setting of the config, a call of a function.
        if option := _OPTION.fullmatch(words):
            return _flag(parameters, option[1], option[2])
        if _SETTING.fullmatch(words):
            flag = _flag(parameters, "set_", None)
            return flag and f"{flag} {words}"
        call = _CALL.fullmatch(words)
        return _command_line(self._commands, call[1], words) if call and call[1] in self._commands else ""


def _flag(parameters: Sequence[Parameter], option: str, value: str | None) -> str:
    """``--option value``, or only the flag where the value says on or off; "" for what is no option here."""
    by_name = {parameter.name: parameter for parameter in parameters}
    parameter = by_name.get(option) or by_name.get(_OTHER_NAMES.get(option, ""))
    if parameter is None or not parameter.opts[0].startswith("-"):
        return ""
    # Off is typed with the flag of the opposite, where there is one.
    if value == "False" and parameter.secondary_opts:
        return parameter.secondary_opts[0]
    return parameter.opts[0] if value in (None, "True") else f"{parameter.opts[0]} {value}"


def _command_line(commands: Mapping[str, Sequence[Parameter]], command: str, words: str) -> str:
    """``verse3d.index(DATA, folds=5)`` as a command; "" if it does not parse or names an option that is none."""
    try:
        # Parsed as Python, because that is what it is: values may hold commas, quotes and brackets.
        call = ast.parse(words, mode="eval").body
    except SyntaxError:
        return ""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return ""
    line = ["verse3d", command, *(_plain(argument) for argument in call.args)]
    for keyword in call.keywords:
        flag = _flag(commands[command], keyword.arg or "", _plain(keyword.value))
        if not flag:
            return ""
        line.append(flag)
    return " ".join(line)


def _plain(node: ast.expr) -> str:
    """A value as it is typed in a shell: without quotes, and ``...`` for what the user fills in."""
    if isinstance(node, ast.Constant):
        return "..." if node.value is ... else str(node.value)
    return ast.unparse(node)
