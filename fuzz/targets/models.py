"""Model files: flipped bytes, wrong content, and the state that a training goes on from."""

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fuzz import mutate, scans
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.api.models import train
from verse3d.core.errors import CheckpointError, ConfigError, DataError
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.model.checkpoint import load_checkpoint, load_weights
from verse3d.model.checksum import content_sha256
from verse3d.model.modes import get_mode

Change = Callable[[Dice, dict[str, torch.Tensor]], str]


def _not_a_number(dice: Dice, weights: dict[str, torch.Tensor]) -> str:
    name = dice.choice(list(weights))
    value = dice.choice((float("nan"), float("inf"), float("-inf")))
    changed = weights[name].clone()
    changed.view(-1)[dice.randrange(changed.numel())] = value
    weights[name] = changed
    return f"{name} holds {value}"


def _another_kind(dice: Dice, weights: dict[str, torch.Tensor]) -> str:
    name = dice.choice(list(weights))
    kind = dice.choice((torch.int64, torch.bool, torch.complex64, torch.uint8))
    weights[name] = weights[name].to(kind)
    return f"{name} is {kind}"


def _other_bits(dice: Dice, weights: dict[str, torch.Tensor]) -> str:
    name = dice.choice(list(weights))
    changed = weights[name].clone()
    changed.view(-1)[dice.randrange(changed.numel())] += dice.choice((1e-3, 1.0, 1e3))
    weights[name] = changed
    return f"{name} has another value under the old hash"


def _another_shape(dice: Dice, weights: dict[str, torch.Tensor]) -> str:
    name = dice.choice(list(weights))
    weights[name] = dice.choice((torch.zeros(3), torch.zeros(0), torch.zeros(()), torch.zeros(1).expand(10**10)))
    return f"{name} has shape {tuple(weights[name].shape)}"


def _no_tensor(dice: Dice, weights: dict[str, Any]) -> str:
    name = dice.choice(list(weights))
    weights[name] = dice.choice((1, "x", [1.0], None, {}))
    return f"{name} is {weights[name]!r}"


def _missing(dice: Dice, weights: dict[str, torch.Tensor]) -> str:
    name = dice.choice(list(weights))
    del weights[name]
    return f"{name} is missing"


_WRONG_WEIGHTS: tuple[Change, ...] = (
    _not_a_number, _another_kind, _other_bits, _another_shape, _no_tensor, _missing
)  # fmt: skip


def _stored(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sealed(content: dict[str, Any]) -> bytes:
    """A model file with this content and the checksum of it: whoever makes such a file can compute that, too."""
    plain = {key: value for key, value in content.items() if key != "sha256"}
    with contextlib.suppress(ValueError):  # of what no checksum can be computed of, the old one is kept
        content = {**plain, "sha256": content_sha256(plain)}
    return _stored(content)


class ModelFiles(Target):
    """A damaged model file is refused, or holds exactly the weights that were saved."""

    name = "model"
    share = 1200
    limits = Limits(cpu_s=4, memory_mb=200)
    refusals = (CheckpointError, ConfigError)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        self.config = scans.tiny_config()
        self.weights = scans.write_model(originals / "best.pt", self.config)
        self.file = (originals / "best.pt").read_bytes()
        self.content: dict[str, Any] = torch.load(originals / "best.pt", weights_only=True)

    def intact(self, room: Room) -> Input:
        (room.inputs / "best.pt").write_bytes(sealed(self.content))
        return Input("intact")

    def write(self, dice: Dice, room: Room) -> Input:
        kind = dice.randrange(5)
        if kind < 2:
            content, words = mutate.data(dice, self.file)
        elif kind == 2:
            weights = dict(self.content["network"])
            change = dice.choice(_WRONG_WEIGHTS)
            words = change(dice, weights)
            store = _stored if change is _other_bits else sealed
            content = store({**self.content, "network": weights})
        elif kind == 3:
            key = dice.choice(list(self.content))
            value = mutate.nasty(dice)
            content, words = sealed({**self.content, key: value}), f"{key} = {str(value)[:30]!r}"
        else:
            config, words = mutate.tree(dice, self.content["config"])
            content, words = sealed({**self.content, "config": config}), f"config: {words}"
        (room.inputs / "best.pt").write_bytes(content)
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        path = room.inputs / "best.pt"
        checkpoint = load_checkpoint(path)
        network = get_mode(checkpoint.config.mode).network(checkpoint.config)
        load_weights(network, checkpoint.network, path)
        found = network.state_dict()
        require(found.keys() == self.weights.keys(), "other layers")
        different = [name for name, weight in self.weights.items() if not torch.equal(found[name], weight)]
        require(not different, f"other weights in {different}")

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        def flipped(name: str) -> Callable[[Room], Input]:
            """A byte of this tensor, which the zip's own checksum would tell, if anybody looked."""

            def write(room: Room) -> Input:
                raw = self.weights[name].numpy().tobytes()
                place = self.file.index(raw[:32]) + 2
                damaged = bytearray(self.file)
                damaged[place] ^= 0x40
                (room.inputs / "best.pt").write_bytes(damaged)
                return Input(f"byte {place} in {name}")

            return write

        def with_config(section: str, **values: Any) -> Callable[[Room], Input]:
            def write(room: Room) -> Input:
                config = self.content["config"]
                content = {**self.content, "config": {**config, section: {**config[section], **values}}}
                (room.inputs / "best.pt").write_bytes(sealed(content))
                return Input(f"{section}: {values}")

            return write

        return {
            **{f"a flipped byte in {name}": flipped(name) for name in list(self.weights)[:3]},
            "a spacing of 1e-6": with_config("grid", spacing_mm=[1e-6, 1e-6, 1e-6]),
            "a margin of a million million": with_config("sampling", margin_voxels=[10**12] * 3),
            "a patch of 4096 cubed": with_config("sampling", patch_voxels=[4096] * 3),
            "a million channels": with_config("network", channels=[10**6, 10**6]),
        }


class States(Target):
    """``last.pt``: a training goes on from it as it should, or says why it cannot."""

    name = "resume"
    share = 150
    limits = Limits(cpu_s=8, memory_mb=300)
    refusals = (CheckpointError, DataError, ConfigError)

    def __init__(self, originals: Path) -> None:
        super().__init__(originals)
        ct, mask = scans.write_scan(originals, "a")
        self.index = originals / "cases.jsonl"
        write_index(self.index, CaseIndex((Case("a", "a", ct, mask, split="train"),)))
        self.run = originals / "run"
        train(data=self.index, out=self.run, config=scans.tiny_config(), max_epochs=1, device="cpu")
        self.content: dict[str, Any] = torch.load(self.run / "last.pt", weights_only=True)

    def intact(self, room: Room) -> Input:
        return self._lay_out(room, self.content["training"], "intact")

    def write(self, dice: Dice, room: Room) -> Input:
        training, words = _damaged_state(dice, self.content["training"])
        return self._lay_out(room, training, words)

    def _lay_out(self, room: Room, training: Any, words: str) -> Input:
        (room.outputs / "last.pt").write_bytes(sealed({**self.content, "training": training}))
        for name in ("config.yaml", "history.csv", "cases.jsonl"):
            (room.outputs / name).write_bytes((self.run / name).read_bytes())
        return Input(words)

    def read(self, room: Room, made: Input) -> None:
        result = train(data=self.index, out=room.outputs, resume=True, max_epochs=2, device="cpu")
        require(result.epochs == 2, f"stopped after epoch {result.epochs}")
        weights = load_checkpoint(result.best).network
        require(all(bool(torch.isfinite(one).all()) for one in weights.values()), "weights that are not finite")


def _damaged_state(dice: Dice, state: Any) -> tuple[Any, str]:
    """A copy in which one value, at any depth, is something else."""
    copy = torch.load(io.BytesIO(_stored(state)), weights_only=True)
    holder, key, words = copy, dice.choice(list(copy)), []
    while True:
        words.append(str(key))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or dice.random() < 0.25:
            break
        holder, key = inner, dice.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    if isinstance(holder, dict) and dice.random() < 0.3:
        del holder[key]
        return copy, f"{'.'.join(words)} is missing"
    holder[key] = dice.choice((mutate.nasty(dice), torch.zeros(3), torch.full((2, 2), float("nan")), torch.zeros(0)))
    return copy, f"{'.'.join(words)} = {str(holder[key])[:30]!r}"
