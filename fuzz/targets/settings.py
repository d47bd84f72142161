"""Configs: YAML files, and ``--set``. What is taken changes only what was changed, and survives a round trip."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzz import mutate
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.core.config import Config, load_config, parse_config
from verse3d.core.errors import ConfigError

_COMMENTS = ("# a remark", "#", "   # indented: {not, parsed", "# [" * 50, "# ünïcode \u2028 end", "\t", "   ")
_VALUES = (
    "true", "yes", "off", "~", "null", "''", '"x"', "1:30", "0x10", "0o17", "1_000", "+1", "-1", "1e-4", "1e999",
    ".inf", "-.inf", ".nan", "nan",
    "NaN", "1e308", "10" * 200, "9" * 5000, "[]", "{}", "[1, 2]", "[1, 2, 3]", "[[[[1]]]]",
    "[1e-6, 1e-6, 1e-6]", "[4096, 4096, 4096]", "[1000000, 1000000]", "1000000000000", "[0, 0, 0]", "[-1, 1, 1]",
    "{a: 1}", "*x", "&x 1", "!!python/name:os.system", "!x", "? a", "- 1", "|\n  text", "2024-01-01", "[1", "'", '"',
    "@", "vertebrae", "3d", "unet", "[" * 2000 + "]" * 2000, "\0", "\ud800", "ß" * 300, "a" * 100_000,
)  # fmt: skip


def _alias_bomb(levels: int) -> str:
    """Text of a few hundred bytes that stands for ten to the power of ``levels`` values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= _flat(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
    return result


class Settings(Target):
    """``load_config`` with a damaged file."""

    name = "config"
    share = 1600
    limits = Limits(cpu_s=2, memory_mb=120)
    refusals = (ConfigError,)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.text = Config().to_yaml()

    def intact(self, room: Room) -> Input:
        (room.inputs / "config.yaml").write_text(self.text)
        return Input("intact", Config())

    def write(self, dice: Dice, room: Room) -> Input:
        same: Config | None = None
        kind = dice.randrange(5)
        if kind == 0:
            lines = self.text.splitlines()
            remark = dice.choice(_COMMENTS[:5])
            lines.insert(dice.randrange(len(lines) + 1), remark)
            content, words, same = "\n".join(lines).encode(), f"remark {remark[:20]!r}", Config()
        elif kind < 3:
            content, words = self._other_value(dice)
        else:
            content, words = mutate.text(dice, self.text)
        (room.inputs / "config.yaml").write_bytes(content)
        return Input(words, same)

    def _other_value(self, dice: Dice) -> tuple[bytes, str]:
        lines = self.text.splitlines()
        number = dice.choice([number for number, line in enumerate(lines) if ":" in line])
        key, value = lines[number].partition(":")[0], dice.choice(_VALUES)
        lines[number] = f"{key}: {value}"
        return "\n".join(lines).encode("utf-8", "surrogatepass"), f"{key.strip()}: {value[:30]!r}"

    def read(self, room: Room, made: Input) -> None:
        config = load_config(room.inputs / "config.yaml")
        if made.expected is not None:
            require(config == made.expected, "a remark changed the settings")
        stable(config)

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        return {
            "alias bomb": _file(_alias_bomb(9)),
            "alias bomb in a setting": _file(_alias_bomb(9) + "\noptim: {lr: *a8}"),
            "a deep list": _file("optim: " + "[" * 100_000),
            "a deep mapping": _file("{a: " * 50_000),
            "a huge number": _file("optim: {epochs: " + "9" * 100_000 + "}"),
            "an absurd grid": _file("grid: {spacing_mm: 1.0e-6}"),
            "an absurd margin": _file("sampling: {margin_voxels: 1000000000000}"),
            "an absurd patch": _file("sampling: {patch_voxels: 4096}"),
            "absurd channels": _file("network: {channels: [1000000, 1000000]}"),
        }


def stable(config: Config) -> None:
    """Require that a config survives the journey through its own YAML and plain values."""
    require(parse_config(config.to_dict()) == config, "the config is not that of its own values")


def _file(text: str) -> Callable[[Room], Input]:
    def write(room: Room) -> Input:
        (room.inputs / "config.yaml").write_text(text, encoding="utf-8")
        return Input(f"{text[:40]} ...")

    return write


class Overrides(Target):
    """``--set KEY=VALUE``: whatever is accepted changes that key and no other."""

    name = "set"
    share = 900
    limits = Limits(cpu_s=2, memory_mb=120)
    refusals = (ConfigError,)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.base = _flat(load_config("unet3d").to_dict())

    def intact(self, room: Room) -> Input:
        return Input("intact", [("optim.lr", "0.5"), ("mode", "3d")])

    def write(self, dice: Dice, room: Room) -> Input:
        keys = [*self.base, "mode", "optim", "grid.spacing_mm.0", "", ".", "a", "optim..lr", "=", "optim.lr.x", "--x"]
        values = dice.choice((_VALUES, list(map(str, self.base.values()))))
        chosen = [(dice.choice(keys), dice.choice(values)) for _ in range(dice.choice((1, 1, 1, 2, 4)))]
        return Input(f"{[(key, value[:30]) for key, value in chosen]}", chosen)

    def read(self, room: Room, made: Input) -> None:
        config = load_config("unet3d", [f"{key}={value}" for key, value in made.expected])
        stable(config)
        named = {key.strip() for key, _ in made.expected}
        flat = _flat(config.to_dict())
        changed = {key for key, value in flat.items() if value != self.base.get(key)}
        extra = {key for key in changed if not any(key == name or key.startswith(f"{name}.") for name in named)}
        require(not extra, f"also changed: {extra}")
