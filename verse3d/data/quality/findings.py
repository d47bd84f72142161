"""What is worth knowing about a case: how bad it is, what and where it is, and what to do."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From worst to mildest."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a case.

    Attributes:
        case: its name.
        severity: "error" (the case cannot be used), "warning" (look at it) or "note".
        code: a short stable name, e.g. "mask-grid".
        message: what was found, and where.
        hint: what to do about it.
    """

    case: str
    severity: Severity
    code: str
    message: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain texts for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())
