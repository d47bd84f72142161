"""A folder is ours to fill if nothing in it could be lost."""

import pytest

from tests.scans import tiny_config
from verse3d.core.errors import DataError
from verse3d.training.runfolder import RunFolder, start_folder

HEADS = (
    "# The complete config of this run. Train the same again with:\n#   verse3d train --config config.yaml ...\n",
    "# The complete config of this run: hand this file to verse3d train as its config, ",
)


@pytest.mark.parametrize("head", HEADS)
def test_a_config_that_any_version_wrote_before_a_run_learnt_anything_is_replaced(tmp_path, head):
    (tmp_path / "config.yaml").write_text(f"{head}\nmode: 3d\n")
    assert not RunFolder(tmp_path).holds_a_run
    start_folder(tmp_path, tiny_config(), overwrite=False)
    assert (tmp_path / "config.yaml").read_text().startswith(HEADS[-1])


def test_a_config_that_somebody_wrote_is_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("# mine\nmode: 3d\n")
    with pytest.raises(DataError, match="already holds a run") as caught:
        start_folder(tmp_path, tiny_config(), overwrite=False)
    assert caught.value.option == "out"
    assert (tmp_path / "config.yaml").read_text() == "# mine\nmode: 3d\n"
