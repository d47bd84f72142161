"""Draw the house: every room with its modules and lines, and how often it imports which other room.

    python scripts/house.py --out docs/images/house.png

Rows and columns are the rooms, from the top floor down to the ground. A number says how many import statements of the
room on the left name a module of the room above the column. Imports go down the stairs, so all numbers stand right of
the diagonal; ``tests/test_architecture.py`` fails on any other.
"""

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PACKAGE = Path(__file__).resolve().parents[1] / "verse3d"
FLOORS = (
    ("cli",),
    ("api",),
    ("report",),
    ("evaluation",),
    ("training",),
    ("inference",),
    ("labelling", "model"),
    ("data",),
    ("phantoms", "downloads", "metrics"),
    ("core",),
)
"""From the top down. Rooms of one floor do not import each other."""


def imported(tree: ast.Module) -> Iterator[str]:
    """The rooms that the import statements of a module name, one for each statement and room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from {part[1] for part in parts if part[0] == PACKAGE.name and len(part) > 1}


def measured(rooms: list[str]) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    """Modules and lines of each room, and how often the room of a row imports the one of a column."""
    sizes, arrows = {}, np.zeros((len(rooms), len(rooms)), int)
    for row, room in enumerate(rooms):
        texts = [path.read_text(encoding="utf-8") for path in sorted((PACKAGE / room).rglob("*.py"))]
        sizes[room] = len(texts), sum(text.count("\n") for text in texts)
        counts = Counter(name for text in texts for name in imported(ast.parse(text)))
        arrows[row] = [counts[other] * (other != room) for other in rooms]
    return sizes, arrows


def draw(out: Path) -> None:
    """Write the picture."""
    rooms = [room for floor in FLOORS for room in floor]
    sizes, arrows = measured(rooms)
    figure = Figure(figsize=(7.6, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(np.sqrt(arrows), cmap="Blues", vmax=2 * np.sqrt(arrows.max()))
    for (row, column), count in np.ndenumerate(arrows):
        if count:
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
    axes.plot([-0.5, len(rooms) - 0.5], [-0.5, len(rooms) - 0.5], color="0.7", linewidth=0.8)
    labels, first = [], 0
    for height, floor in enumerate(FLOORS):
        axes.axhline(first - 0.5, color="0.85", linewidth=0.8)
        first += len(floor)
        for room in floor:
            modules, lines = sizes[room]
            labels.append(f"{room}, {modules} modules, {lines / 1000:.1f}k lines   {len(FLOORS) - 1 - height}")
    axes.set_yticks(range(len(rooms)), labels, fontsize=9)
    axes.set_xticks(range(len(rooms)), rooms, rotation=40, ha="left", fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_frame_on(False)
    figure.savefig(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PACKAGE.parent / "docs" / "images" / "house.png")
    draw(parser.parse_args().out)
