"""What becomes of vertebrae that the scan cuts. Beside ``naming``, because commands ask before they load PyTorch."""

from typing import Literal

from verse3d.core.errors import ConfigError

PartialVertebrae = Literal["drop", "keep"]
"""What becomes of vertebrae that the scan cuts: VerSe's masks leave them out."""


def keeps_partial(partial: str) -> bool:
    """Whether masks show vertebrae that the scan cuts.

    Raises:
        ConfigError: ``partial`` is neither drop nor keep.
    """
    if partial not in ("drop", "keep"):
        raise ConfigError(f"`partial` must be drop or keep, got {partial!r}", option="partial")
    return partial == "keep"
