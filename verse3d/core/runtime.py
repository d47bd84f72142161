"""The machine: device, precision, random state and the memory used."""

import contextlib
import os
import random
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from verse3d.core.errors import ConfigError
from verse3d.core.system import peak_memory_bytes

DeviceName = Literal["auto", "cpu", "cuda"]
AmpName = Literal["auto", "off", "bf16", "fp16"]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes the GPU if there is one.

    Raises:
        ConfigError: the name is unknown, or a GPU was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mps":
        raise ConfigError(
            "Apple's GPU (mps) is not used: verse3d computes on NVIDIA GPUs and on CPUs",
            hint="leave the device at auto, or choose cpu",
        )
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is unknown; expected auto, cpu or cuda", option="device")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' was asked for, but PyTorch sees no GPU",
            hint="use `device=auto`, or install a PyTorch build for your CUDA version",
            option="device",
        )
    return torch.device(name)


@dataclass(frozen=True)
class Precision:
    """The number format of a network's forward pass.

    Attributes:
        dtype: what autocast uses; float32 means that autocast is off.
        scales_loss: whether gradients need a ``GradScaler`` (fp16 only).
    """

    dtype: torch.dtype
    scales_loss: bool

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which the network runs."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def choose_precision(amp: str, device: torch.device) -> Precision:
    """The precision for ``amp``; ``auto`` takes bf16 where the hardware is quicker with it, else fp16 on CUDA.

    Raises:
        ConfigError: fp16 was asked for on a CPU.
    """
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError("runtime.amp fp16 needs a GPU", hint="use bf16, off or auto on a CPU")
    if amp == "auto":
        amp = _best_amp(device)
    dtype = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    return Precision(dtype, scales_loss=amp == "fp16")


def _best_amp(device: torch.device) -> str:
    """What is quickest on a device: bf16 where the hardware multiplies it, else fp16 on a GPU and "off" on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # Intel's processors without AMX have instructions for bf16 that are no quicker than float32: measured on a Xeon, a
    # training step of the 3D UNet takes 0.60 s in bf16 and 0.48 s in float32; on AMD's Zen 4 bf16 takes half as long.
    intel = "intel" in str(capabilities.get("cpu_name", "")).lower()
    quick = ("amx_bf16",) if intel else ("avx512_bf16", "amx_bf16", "bf16")
    return "bf16" if any(capabilities.get(name) for name in quick) else "off"


@cache
def installed_version(package: str) -> str:
    """The version of a Python package, or "not installed"; looked up once."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """PyTorch's random state as tensors, for a checkpoint. Patches draw from their own seeds and need none."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of ``random_state``. A state of more GPUs than there are is ignored for CUDA."""
    torch.set_rng_state(state["torch"].cpu())
    cuda = state.get("cuda", [])
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in cuda])


def channels_last(batch: torch.Tensor) -> torch.Tensor:
    """A batch (B, C, ...) in the order in memory that convolutions in 2D and 3D are quickest with."""
    return batch.to(memory_format=torch.channels_last_3d if batch.dim() == 5 else torch.channels_last)


_STATUS = Path("/proc/self/status")


_highest_mb: dict[int, float] = {}
"""The most that was ever seen, by process: one that was forked has a peak of its own."""


def _seen(memory_mb: float) -> float:
    # The kernel adds up what its processors have counted, some pages late: a peak could shrink, or a moment exceed it.
    process = os.getpid()
    _highest_mb[process] = max(_highest_mb.get(process, 0.0), memory_mb)
    return _highest_mb[process]


def rss_mb() -> float:
    """Resident memory of this process now, in MB (10^6 bytes); where the system does not say (not Linux), the peak."""
    if now := _status_mb("VmRSS"):
        _seen(now)
    return now or peak_rss_mb()


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes).

    Where Linux counts it, this is the peak of the program itself: ``getrusage`` of a process that another one started
    begins with the peak of that other one.
    """
    if counted := _status_mb("VmHWM"):
        return _seen(counted)
    return peak_memory_bytes() / 1e6


def _status_mb(field: str) -> float:
    """A field of Linux's status file in MB, or 0."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return float(value.split()[0]) * 1024 / 1e6  # "VmRSS:     12345 kB"
    return 0.0
