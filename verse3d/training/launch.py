"""How steps are launched. A GPU computes a step of a small network faster than a program can ask for its kernels, so
the network is compiled to fewer of them, and the whole step is recorded once and then launched as one (CUDA graph).

    steps    1          2  3             4                    5 ...
           compile    warm up     record, then replay        replay

Every one of these steps is a real one: what is recorded does the same as ``training_step``.
"""

import contextlib
import importlib.util
import shutil
from dataclasses import dataclass

import torch

from verse3d.core.config import RuntimeConfig
from verse3d.core.errors import ConfigError, TrainingError
from verse3d.core.logs import logger
from verse3d.core.wording import first_line
from verse3d.training.step import Batch, Learner, NetworkCall, StepResult, backward, forward, training_step

_WARM_UP_STEPS = 3
_STEPS_WORTH_COMPILING = 5000
"""Compiling takes 25 to 40 seconds and saves about 4 ms per step (measured on an H200)."""

_log = logger(__name__)


@dataclass(frozen=True, eq=False)
class _Recording:
    """A recorded step: what it reads and what it writes lies where it lay."""

    graph: torch.cuda.CUDAGraph
    image: torch.Tensor
    label: torch.Tensor
    loss: torch.Tensor
    grad_norm: torch.Tensor

    def fits(self, batch: Batch) -> bool:
        return batch["image"].shape == self.image.shape

    def replay(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.image.copy_(batch["image"])
        self.label.copy_(batch["label"])
        self.graph.replay()
        return self.loss.clone(), self.grad_norm.clone()


class Launcher:
    """Does training steps, in the quickest way that works on this machine.

    Args:
        learner: what learns.
        runtime: ``compile`` and ``cuda_graph`` count.
        steps: how many there will be.
    """

    def __init__(self, learner: Learner, runtime: RuntimeConfig, steps: int) -> None:
        self._learner = learner
        self._network: NetworkCall = learner.network
        self._compiles = wants_compiling(runtime, learner.device, steps)
        self._records = wants_recording(runtime, learner)
        self._must_compile, self._must_record = runtime.compile == "on", runtime.cuda_graph == "on"
        self._recording: _Recording | None = None
        self._steps = 0

    def __call__(self, batch: Batch) -> StepResult:
        """Learn from one batch; see ``training_step``."""
        self._steps += 1
        if self._compiles and self._steps == 1:
            return self._compiled(batch)
        if not self._records:
            return training_step(self._learner, batch, self._network)
        if self._recording is None and self._steps > _WARM_UP_STEPS:
            self._record(batch)
        if self._recording is not None and self._recording.fits(batch):
            return self._replayed(self._recording, batch)
        return on_other_stream(self._learner, batch, self._network)

    def _compiled(self, batch: Batch) -> StepResult:
        """The first step, through the compiled network if it can be compiled; a failure leaves nothing behind."""
        network = self._learner.network
        # A backward pass that does not compile comes after a forward pass that has moved running means.
        before = [buffer.clone() for buffer in network.buffers()]
        self._network = torch.compile(network, dynamic=False)  # beside the network: validation sees other shapes
        try:
            return on_other_stream(self._learner, batch, self._network)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler can fail in any way
            if self._must_compile:
                raise _cannot("runtime.compile", "the network cannot be compiled", error) from error
            _log.info("the network is not compiled (%s)", first_line(error))
        self._network = network
        for buffer, old in zip(network.buffers(), before, strict=True):
            buffer.data.copy_(old)
        return on_other_stream(self._learner, batch, network)

    def _record(self, batch: Batch) -> None:
        """Record a step; nothing is computed yet. If that fails, steps stay as they are."""
        try:
            self._recording = record(self._learner, batch, self._network)
        except Exception as error:  # whatever a kernel does not allow while it is recorded
            if self._must_record:
                raise _cannot("runtime.cuda_graph", "the step cannot be recorded", error) from error
            _log.info("steps are launched kernel by kernel (%s)", first_line(error))
            self._records = False
            self._learner.optimizer.zero_grad(set_to_none=True)

    def _replayed(self, recording: _Recording, batch: Batch) -> StepResult:
        learner = self._learner
        lr = learner.schedule.rate
        # What is not recorded is done here, on the host: schedule and counts.
        loss, grad_norm = recording.replay(batch)
        learner.schedule.after_step()
        if learner.average is not None:
            learner.average.n_averaged += 1
        return StepResult(loss, grad_norm, lr)


def on_other_stream(learner: Learner, batch: Batch, network: NetworkCall) -> StepResult:
    """A step as it is before one can be recorded: PyTorch wants the same memory used on a stream of its own."""
    if learner.device.type != "cuda":
        return training_step(learner, batch, network)
    here, there = torch.cuda.current_stream(), side_stream(learner.device)
    # Two queues of one GPU: each waits for what the other was given before.
    there.wait_stream(here)
    with torch.cuda.stream(there):
        result = training_step(learner, batch, network)
    here.wait_stream(there)
    return result


def side_stream(device: torch.device) -> torch.cuda.Stream:
    """A queue of its own for work on a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def record(learner: Learner, batch: Batch, network: NetworkCall) -> _Recording:
    """Record forward pass, backward pass, optimizer and running mean as one CUDA graph.

    Raises:
        RuntimeError: something in the step cannot be recorded, or does not fit.
    """
    learner.network.train()
    # The graph reads these very tensors at every replay, and puts gradients into memory of its own.
    image, label = batch["image"].clone(), batch["label"].clone()
    learner.optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    # Other threads (the loader's, which pins memory) may go on meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        loss, grad_norm = backward(learner, forward(learner, network, image, label))
        if learner.average is not None:
            learner.average.blend(learner.network)
    return _Recording(graph, image, label, loss, grad_norm)


def wants_recording(runtime: RuntimeConfig, learner: Learner) -> bool:
    """Whether steps are to be recorded: on one GPU, unless the loss is scaled, which decides on the host.

    Raises:
        ConfigError: it was asked for and cannot be.
    """
    alone = learner.ranks.count == 1  # messages between processes are not recorded
    possible = learner.device.type == "cuda" and not learner.scaler.is_enabled() and alone
    if runtime.cuda_graph == "on" and not possible:
        raise ConfigError(
            "runtime.cuda_graph on needs a GPU, one process, and another runtime.amp than fp16",
            hint="leave it at auto",
        )
    return possible and runtime.cuda_graph != "off"


def wants_compiling(runtime: RuntimeConfig, device: torch.device, steps: int) -> bool:
    """Whether the network is to be compiled: on a GPU, with a compiler, if so many steps repay it."""
    if runtime.compile != "auto":
        return runtime.compile == "on"
    return device.type == "cuda" and steps >= _STEPS_WORTH_COMPILING and _has_compiler()


def _has_compiler() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def largest_batch(learner: Learner, batch: Batch) -> int:
    """How many samples of a batch fit into the device's memory, found by trial; 0 if not even one does.

    The gradients of the network are lost.
    """
    fits, too_many = 0, len(batch["image"])
    while too_many - fits > 1:
        # Bisection: ``fits`` does, ``too_many`` does not.
        middle = (fits + too_many) // 2
        if _fits(learner, {key: value[:middle] for key, value in batch.items()}):
            fits = middle
        else:
            too_many = middle
    return fits


def too_large(learner: Learner, batch: Batch, asked: int) -> TrainingError:
    """The error for a batch that does not fit into memory. It says which one would, found by trial.

    Args:
        learner: that was to learn from it; its gradients are lost.
        batch: of this process.
        asked: samples of all processes together.
    """
    count = learner.ranks.count
    if count > 1:  # trying would need all processes
        return TrainingError(
            f"this process's part of a batch of {asked} does not fit into the memory of {learner.device}",
            hint="lower sampling.batch_size, which is that of all processes together, or start more of them",
        )
    if fits := largest_batch(learner, batch):
        return TrainingError(
            f"a batch of {asked} does not fit into the memory of {learner.device}; the largest that does is {fits}",
            hint=f"use `sampling.batch_size={fits}`",
        )
    return TrainingError(
        f"not even a single sample fits into the memory of {learner.device}",
        hint="choose smaller sampling.patch_voxels or network.channels",
    )


def _fits(learner: Learner, batch: Batch) -> bool:
    learner.optimizer.zero_grad(set_to_none=True)
    fits = False
    # The backward pass as well: before it begins only activations are held, not gradients.
    with contextlib.suppress(torch.OutOfMemoryError):
        image, label = batch["image"].to(learner.device), batch["label"].to(learner.device)
        forward(learner, learner.network, image, label).backward()  # type: ignore[no-untyped-call]
        fits = True
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _cannot(setting: str, what: str, error: Exception) -> ConfigError:
    return ConfigError(f"{setting} on: {what} here: {first_line(error)}", hint=f"set {setting}=auto")
