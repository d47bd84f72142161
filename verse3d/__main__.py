"""``python -m verse3d`` is the ``verse3d`` program."""

from verse3d.cli import run

run()
