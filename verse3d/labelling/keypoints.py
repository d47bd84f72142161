"""Reading key points of spines: a JSON line per scan, as the ImFusion VID data set is packed.

``{"id", "source", "truth": [{"level", "world_dicom_mm"}], "detections": [{"world_dicom_mm",
"segment_probabilities_ctl"}], "pedicle_detections": [{"side", "world_dicom_mm"}]}``. World DICOM is LPS+ mm.
"""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.labelling.detections import Detections, detections
from verse3d.labelling.levels import LEVEL_INDEX, SACRUM

_RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class SpineDetections:
    """The detections of one scan, and the truth if it is known.

    Attributes:
        id: names the scan.
        subject: names the patient, as far as the source tells; scans of one patient share it.
        found: the detections.
        levels: names of the true vertebrae, from head to feet.
        centres_mm: their centres, (V, 3), world RAS+ mm.
    """

    id: str
    subject: str
    found: Detections
    levels: tuple[str, ...]
    centres_mm: NDArray[np.float64]


def read_keypoints(path: Path) -> list[SpineDetections]:
    """Read a file of JSON lines, packed with gzip or not.

    Raises:
        DataError: the file is missing or damaged, or a line does not describe a spine; the message names the line.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="expected JSON lines, plain or packed with gzip"
        ) from error
    # Numbered as an editor counts, so that an error leads to its line.
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return [_spine(line, f"{path}, line {number}") for number, line in lines]


def _spine(line: str, place: str) -> SpineDetections:
    try:
        content = json.loads(line)
        truth = list(content["truth"])
        return SpineDetections(
            id=str(content["id"]),
            subject=subject_of(str(content.get("source", content["id"]))),
            found=_found(content),
            levels=tuple(_level(row["level"]) for row in truth),
            centres_mm=_ras([row["world_dicom_mm"] for row in truth]),
        )
    except DataError as error:
        raise DataError(f"{place}: {error.message}", hint=error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{place} does not describe a spine: {type(error).__name__}: {error}",
            hint='expected {"id": ..., "truth": [...], "detections": [...], "pedicle_detections": [...]}',
        ) from error


def _found(content: dict[str, Any]) -> Detections:
    bodies = list(content["detections"])
    pedicles: dict[str, list[Any]] = {"left": [], "right": []}
    for row in content.get("pedicle_detections", []):
        pedicles[row["side"]].append(row["world_dicom_mm"])
    return detections(
        _ras([row["world_dicom_mm"] for row in bodies]),
        [row["segment_probabilities_ctl"] for row in bodies],
        _ras(pedicles["left"]),
        _ras(pedicles["right"]),
    )


def _ras(points: Sequence[Any]) -> NDArray[np.float64]:
    turned: NDArray[np.float64] = np.asarray(points, dtype=np.float64).reshape(-1, 3) * _RAS_FROM_LPS
    return turned


def _level(name: object) -> str:
    if name not in LEVEL_INDEX or name == SACRUM:
        raise DataError(f"no vertebra is called {name!r}", hint="known: C1-C7, T1-T13, L1-L6")
    return str(name)


def subject_of(source: str) -> str:
    """The patient behind a path of VID: VerSe's subject, the patient folder of COLONOG, else the path itself."""
    # Scans of one patient must not stand in two folds.
    if verse := re.search(r"sub-[a-z]+\d+", source):
        return verse.group(0)
    parts = source.split("/")
    if parts[0] == "COLONOG" and len(parts) > 2:
        return parts[2]
    return source
