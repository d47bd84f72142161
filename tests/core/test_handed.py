"""A value that is handed on once."""

import pytest

from verse3d.core.handed import Handed


def test_a_value_is_taken_once():
    scan = Handed([1, 2, 3])
    assert scan.take() == [1, 2, 3]
    with pytest.raises(ValueError, match="handed on before"):
        scan.take()
