"""What every section of the config is: frozen, complete, and strict about what a number is."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """Refuses unknown settings, infinite numbers, and truth values where a number is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - whatever YAML can hold
        """Keep pydantic from taking ``true`` for 1 where a number is wanted."""
        if cls.model_fields[str(info.field_name)].annotation is bool:
            return value
        if isinstance(value, list):
            return [str(item).lower() if isinstance(item, bool) else item for item in value]
        if isinstance(value, bool):
            return str(value).lower()
        return value
