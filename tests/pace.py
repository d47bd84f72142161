"""Which of many like cases the quick run takes."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_quickly(values: Iterable[Any], count: int) -> list[Any]:
    """Parameters of a test: the first ``count`` always run, the others with the slow tests."""
    return [
        pytest.param(value, marks=() if number < count else pytest.mark.slow) for number, value in enumerate(values)
    ]
