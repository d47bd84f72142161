"""What tests of configs share."""

from pathlib import Path

from verse3d.core.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def problems(error: ConfigError) -> list[str]:
    """The listed problems of a config error, without its first line."""
    return [line.removeprefix("  - ") for line in error.message.splitlines() if line.startswith("  - ")]
