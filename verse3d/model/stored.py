"""The typed reader of what a model file holds, before any of it gets a meaning."""

from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from verse3d.model.trained_on import TrainedOn

_MOST_PROBLEMS = 5
_MOST_NETWORKS = 16
_ShortText = Annotated[str, StringConstraints(max_length=200)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
_Weights = dict[_ShortText, torch.Tensor]


class StoredPart(BaseModel):
    """A network with its config, as plain values and tensors. Attributes as in ``checkpoint.Checkpoint``."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)

    config: dict[str, Any]
    network: _Weights
    epoch: Annotated[int, Field(ge=0, le=10**9)]
    scores: dict[_ShortText, float]
    labels: dict[_ShortText, Annotated[int, Field(ge=1, le=254)]] | None = None


class StoredCheckpoint(StoredPart):
    """A whole file. Version 1 has no ``networks`` and no ``sha256``; ``trained_on`` came later, and may be missing."""

    format: str
    format_version: int
    training: dict[str, Any]
    versions: dict[_ShortText, _ShortText]
    networks: Annotated[dict[_Name, StoredPart], Field(max_length=_MOST_NETWORKS)] = {}
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    trained_on: TrainedOn | None = None

    @model_validator(mode="after")
    def _suits_its_version(self) -> "StoredCheckpoint":
        if self.format_version >= 2 and self.sha256 is None:
            raise ValueError("sha256 is missing")
        if self.format_version == 1 and (self.networks or self.sha256 is not None):
            raise ValueError("networks and sha256 do not belong into format version 1")
        return self


def read_stored(content: dict[str, Any]) -> StoredCheckpoint:
    """Check types, limits and completeness.

    Raises:
        ValueError: lists up to five problems, each with its place.
    """
    try:
        return StoredCheckpoint.model_validate(content)
    except ValidationError as error:
        # Without the values: they can be of any size.
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        listed = [f"{'.'.join(map(str, one['loc']))[:100]}: {one['msg'][:200]}" for one in problems[:_MOST_PROBLEMS]]
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ValueError("; ".join(listed + more)) from None
