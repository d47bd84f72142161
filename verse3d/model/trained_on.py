"""What kind of scans a model has learnt from, as its file tells: so that a scan of another kind is noticed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Range = Annotated[list[_Number], Field(min_length=2, max_length=2)]
_Measure = Annotated[str, StringConstraints(max_length=60)]


class TrainedOn(BaseModel):
    """The scans of a training, in numbers.

    Attributes:
        cases: how many.
        phantoms: how many of them were synthetic.
        ranges: the lowest and the highest of each measure (see ``data.samples.measures``).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    cases: Annotated[int, Field(ge=1, le=10**7)]
    phantoms: Annotated[int, Field(ge=0)] = 0
    ranges: Annotated[dict[_Measure, _Range], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.phantoms > self.cases or any(low > high for low, high in self.ranges.values()):
            raise ValueError("more phantoms than cases, or a range that begins above its end")
        return self

    @classmethod
    def of(cls, measures: Sequence[Mapping[str, float]], *, phantoms: int) -> Self:
        """From the measures of every case; what is not measured of all of them is left out."""
        common = sorted(set.intersection(*(set(one) for one in measures)))
        ranges = {}
        for name in common:
            values = [float(one[name]) for one in measures]
            ranges[name] = [min(values), max(values)]
        return cls(cases=len(measures), phantoms=phantoms, ranges=ranges)

    @classmethod
    def joined(cls, several: Iterable["TrainedOn | None"]) -> "TrainedOn | None":
        """What models that are averaged have seen together; None if one of them does not tell."""
        each = list(several)
        known = [one for one in each if one is not None]
        if not known or len(known) < len(each):
            return None
        ends = [{name: one.ranges[name][end] for name in one.ranges} for one in known for end in (0, 1)]
        whole = cls.of(ends, phantoms=0).ranges
        return cls(
            cases=sum(one.cases for one in known), phantoms=sum(one.phantoms for one in known), ranges=dict(whole)
        )
