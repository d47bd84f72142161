import pickle

import pytest

from verse3d.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GeometryError,
    OutputError,
    TrainingError,
    Verse3dError,
)

FAMILY = [
    (Verse3dError, Exception, 1),
    (ConfigError, ValueError, 2),
    (DataError, ValueError, 3),
    (GeometryError, DataError, 3),
    (OutputError, OSError, 3),
    (CheckpointError, RuntimeError, 4),
    (TrainingError, RuntimeError, 1),
]


@pytest.mark.parametrize(("kind", "builtin", "exit_code"), FAMILY)
def test_every_error_has_its_exit_code_and_can_be_caught_as_its_builtin(kind, builtin, exit_code):
    with pytest.raises(builtin) as caught:
        raise kind("the mask is empty")
    assert isinstance(caught.value, Verse3dError)
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("kind", [kind for kind, _, _ in FAMILY])
def test_a_hint_is_shown_below_the_message(kind):
    error = kind("the mask is empty", hint="draw a vertebra")
    assert str(error) == "the mask is empty\n  hint: draw a vertebra"
    assert (error.message, error.hint) == ("the mask is empty", "draw a vertebra")


@pytest.mark.parametrize("kind", [kind for kind, _, _ in FAMILY])
def test_without_a_hint_only_the_message_is_shown(kind):
    assert str(kind("the mask is empty")) == "the mask is empty"


@pytest.mark.parametrize("kind", [kind for kind, _, _ in FAMILY])
def test_an_error_survives_the_way_back_from_a_worker_process(kind):
    error = pickle.loads(pickle.dumps(kind("the mask is empty", hint="draw a vertebra")))
    assert type(error) is kind
    assert str(error) == "the mask is empty\n  hint: draw a vertebra"
