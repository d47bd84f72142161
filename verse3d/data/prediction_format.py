"""How a predicted scan is written down in a list (JSON) or a log (JSON lines), and how it is read back."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from verse3d.core.readers import Many, Number, Record, Text, Whole

HINT = "remove the file, or predict into a new folder"


class StoredRecord(Record):
    """A record as any version wrote it: what is read of it has a type, the rest is kept as it is."""

    model_config = ConfigDict(extra="allow")

    case: Text
    status: Literal["written", "skipped", "failed"]
    mask: Text = ""
    image: Text = ""
    error: Text = ""
    seconds: Number = 0.0
    seconds_of: dict[str, Number] = Field(default_factory=dict)
    peak_rss_mb: Number = 0.0
    windows: Whole = 0
    warnings: Many[Text] = ()
    model_sha256: Text = ""
    models: Many[Text] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    finished: Number = 0.0
    mask_of: dict[str, Any] = Field(default_factory=dict)


class StoredAbout(Record):
    """What is said about a call as a whole."""

    model_config = ConfigDict(extra="allow")

    scheme: Literal["binary", "vertebrae", ""] = ""
    model: Text = ""
    models: Many[Text] = ()
    device: Text = ""


class StoredList(StoredAbout):
    """A list: ``{"model": ..., "cases": [{"case": ...}, ...]}``."""

    cases: Many[StoredRecord]
