"""Settings of the scout."""

from typing import Annotated, Literal

from pydantic import Field

from verse3d.core.section import Section

_Channels = Annotated[int, Field(ge=4, le=256, multiple_of=4)]


class ScoutConfig(Section):
    """A second, tiny network that sees the whole field of view at 4 mm and says where the spine is (mode 3d only)."""

    enabled: bool = True
    channels: Annotated[tuple[_Channels, ...], Field(min_length=2, max_length=6)] = (8, 16, 32, 48, 64)
    """Of each of its levels. Five of them see half a metre."""
    begin_with: Literal["starter", "nothing"] = "starter"
    """The scout of the starter weights, which has learnt for thousands of steps, or weights as they are drawn."""
    time_share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.05
    """Largest share of a run's time that its training may take. In the first ten minutes it is twice as much; a fifth,
    always, for a scout that goes on from another one."""
