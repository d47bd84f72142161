"""What may not be written over: the data themselves, masks that somebody else made, masks of another scan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.files import resolved
from verse3d.core.volume import made_by_verse3d, read_geometry
from verse3d.data.cases import Case


@dataclass(frozen=True)
class Maker:
    """What made a mask, or would make it now.

    Attributes:
        model_sha256: of the model file; of several joined by "+"; empty if nobody knows.
        models: their paths, to be told.
        settings: what else decides about a mask: see ``Predictor.mask_settings``; empty if nobody knows.
    """

    model_sha256: str = ""
    models: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Maker":
        """The one that a record names."""
        settings, models = record.get("settings"), record.get("models")
        return cls(
            str(record.get("model_sha256", "")),
            tuple(map(str, models)) if isinstance(models, list | tuple) else (),
            settings if isinstance(settings, Mapping) else {},
        )

    @property
    def is_known(self) -> bool:
        """Whether a record tells which model it was."""
        return bool(self.model_sha256)

    def __str__(self) -> str:
        """The models with the beginnings of their hashes."""
        hashes = self.model_sha256.split("+")
        names = self.models
        if len(names) != len(hashes):
            names = ("a model",) * len(hashes)
        described = [f"{name} (SHA-256 {digest[:12]})" for name, digest in zip(names, hashes, strict=True)]
        return " and ".join(described)


_ANOTHER_OR_REPLACE = "choose another folder as `out`, or `overwrite` to replace it"


class OtherMaskError(DataError):
    """A mask is there that is good by itself, but not the one that was asked for."""


def refuse_own_output(target: Path, case: Case) -> None:
    """A mask must never take the place of a file that the case consists of.

    Raises:
        DataError: it would.
    """
    # By file, not by name: links and other spellings lead to the same one.
    own = [path for path in (case.image, case.mask) if path is not None]
    if target.exists() and any(target.samefile(path) for path in own if path.exists()):
        raise DataError(
            f"{target} is a file of the data set and would be overwritten",
            hint="choose another folder as `out`",
            option="out",
        )


def refuse_foreign_mask(target: Path) -> None:
    """Even ``overwrite`` replaces only what verse3d wrote: anything else may be somebody's truth.

    Raises:
        DataError: the file is there and not ours.
    """
    if not target.exists():
        return
    if not made_by_verse3d(read_geometry(target)[1]):
        raise DataError(
            f"{target} exists and was not written by verse3d: it may be a true mask",
            hint="choose another folder as `out`, or remove the file yourself",
            option="out",
        )


def require_mask_of(target: Path, image: Path, previous: Mapping[str, Any]) -> None:
    """A mask that is there already may be kept only if it belongs to this scan.

    Raises:
        OtherMaskError: it was made from another scan.
        DataError: its latest prediction failed, or it lies on another grid.
    """
    made_from = previous.get("image")
    if previous.get("status") == "failed":
        raise DataError(
            f"{target} exists, but the latest prediction of this case failed",
            hint="`overwrite` replaces it",
            option="overwrite",
        )
    if made_from is not None and resolved(Path(made_from)) != resolved(image):
        raise OtherMaskError(
            f"{target} was made from another scan ({made_from}), not from {image}",
            hint=_ANOTHER_OR_REPLACE,
            option="overwrite",
        )
    try:
        same = read_geometry(target)[0] == read_geometry(image)[0]
    except GeometryError:
        same = False
    if not same:
        raise DataError(
            f"{target} exists but is not on the grid of {image}", hint="`overwrite` replaces it", option="overwrite"
        )


def require_maker(target: Path, made_by: Maker, now: Maker) -> None:
    """A mask that is there already may be kept only if this call would make the same; what is unknown is not compared.

    Raises:
        OtherMaskError: it was made by another model, or with other settings.
    """
    if made_by.is_known and now.is_known and _members(made_by) != _members(now):
        raise OtherMaskError(
            f"{target} was made by {made_by}, not by {now}", hint=_ANOTHER_OR_REPLACE, option="overwrite"
        )
    # An older version knew fewer settings; those that it did not write down cannot be compared.
    common = [key for key in now.settings if key in made_by.settings]
    different = [key for key in common if made_by.settings[key] != now.settings[key]]
    if different:
        listed = ", ".join(f"{key} {made_by.settings[key]} and not {now.settings[key]}" for key in different)
        raise OtherMaskError(f"{target} was made with {listed}", hint=_ANOTHER_OR_REPLACE, option="overwrite")


def _members(maker: Maker) -> list[str]:
    """The models in an order of their own: an average is the same whoever is named first."""
    return sorted(maker.model_sha256.split("+"))
