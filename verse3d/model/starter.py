"""The model that comes with verse3d, as a run folder inside the package.

verse3d/starter/   best.pt       the weights, those of the U-Net in half precision (9 MB)
                   config.yaml   how they were trained ...
                   cases.jsonl   ... on which scans, by name (none is shipped), so that comparisons see leaks
                   history.csv   ... and for how long
"""

from importlib import resources
from pathlib import Path

from verse3d.core.errors import CheckpointError

STARTER = "starter"
ABOUT = (
    "starter weights: trained on five CT scans of the trunk and on synthetic ones; good for a first look and to begin "
    "your own training with; poor in the neck, near metal and in children; for research only, not a medical device"
)
_BEST = "best.pt"
_CARD = "model-card.md"


def starter_folder() -> Path:
    """Where the starter model lies: a run folder without a ``last.pt``."""
    return Path(str(resources.files("verse3d"))) / STARTER


def starter_file() -> Path:
    """The weights that come with verse3d.

    Raises:
        CheckpointError: this copy of verse3d was built without them.
    """
    path = starter_folder() / _BEST
    if not path.is_file():
        raise CheckpointError(
            f"this copy of verse3d has no starter weights ({path} is missing)",
            hint="name a model of your own, the best.pt of a run folder, or install verse3d from its wheel",
        )
    return path


def model_card() -> str:
    """What the starter weights are, learnt from, measured on, and fail at, as Markdown.

    In an installed package it lies beside the weights, in a source checkout among the documents.

    Raises:
        CheckpointError: it is in neither place.
    """
    beside = starter_folder()
    # In the wheel the card lies beside the weights, in a checkout among the documents.
    checkout = beside.parent.parent
    for path in (beside / _CARD, checkout / "docs" / _CARD):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise CheckpointError("this copy of verse3d has no model card", hint="install verse3d from its wheel")
