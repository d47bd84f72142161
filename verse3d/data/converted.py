"""What ``verse3d convert`` wrote down about the cases of a data set that it made, for when that is indexed again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import read_json
from verse3d.data.cases import SPLITS, Split

MANIFEST = "conversion.json"
_LEVELS_UP = 4  # from the scan in a VerSe tree to the folder of its manifest


@dataclass(frozen=True)
class Origin:
    """What a converted case was in the index that it came from; ``subject`` is None where its name still says it."""

    subject: str | None
    split: Split | None
    split_origin: str
    fold: int | None


def origin_of(path: Path) -> Origin | None:
    """The entry of a scan or mask in the ``conversion.json`` above it, or None."""
    for folder in list(path.parents)[:_LEVELS_UP]:
        if found := _origins(folder / MANIFEST).get(path.relative_to(folder).as_posix()):
            return found
    return None


@lru_cache(maxsize=512)
def _origins(manifest: Path) -> Mapping[str, Origin]:
    if not manifest.is_file():
        return {}
    try:
        content = read_json(manifest)
        keeps_names = content["to"] == "verse"
        return {file["path"]: _origin(case, keeps_names) for case in content["cases"] for file in case.get("files", ())}
    except (DataError, KeyError, TypeError, AttributeError):  # somebody else's file of that name
        return {}


def _origin(case: Mapping[str, Any], keeps_names: bool) -> Origin:
    split = next((known for known in SPLITS if known == case["split"]), None)
    return Origin(None if keeps_names else str(case["subject"]), split, str(case.get("split_origin", "")), case["fold"])
