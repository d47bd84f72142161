"""Results as JSON on standard output, for programs that read what a command says."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rich.console import Console


def print_json(out: Console, value: object) -> None:
    """Show a result as JSON: dataclasses as objects, what is undefined as null."""
    out.file.write(json.dumps(_plain(value), indent=2, ensure_ascii=True) + "\n")


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a result holds
    # Asked first: results are dataclasses, and one may be a mapping or a tuple as well.
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    # JSON knows neither NaN nor infinity; most readers refuse them.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
