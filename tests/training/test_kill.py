"""A training that is killed again and again ends as if nobody had touched it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from fuzz import kill
folder = Path(sys.argv[1])
kill.write_cases(folder / "data", 4)
outcome = kill.run(kill.training(folder / "data"), kills=10, seed=5, folder=folder / "train")
print(outcome)
sys.exit(bool(outcome.problems) or outcome.kills != 10 or outcome.at_work < 5)  # every other one waits for it
"""


@pytest.mark.slow  # ten starts of a training
def test_ten_kills_at_random_moments_give_the_weights_of_an_uninterrupted_run_to_the_last_bit(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
