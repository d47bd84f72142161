"""The processes that share a run, one per GPU, and what they tell each other. A process alone is a group of one.

    torchrun, 2 per machine          rank 0   samples 0 2 4 6 of each batch   writes the run folder
                                       rank 1   samples 1 3 5 7 of each batch   writes nothing

Gradients go over the network of the GPUs (NCCL) or, on CPUs, over Gloo. Plain words (flags, scores) always go over
Gloo: so nothing has to wait for a GPU.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist

from verse3d.core.errors import ConfigError, TrainingError, Verse3dError

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)
"""Rank 0 may prepare cases, or validate a long scan, while the others wait."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a run.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
        here: how many of them are on this machine.
        control: what carries plain words; None in a group of one.
    """

    rank: int = 0
    count: int = 1
    here: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and shows what belongs to the run as a whole."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every ``count``-th of them, from ``rank`` on."""
        return items[self.rank :: self.count]

    def gather(self, value: T) -> list[T]:
        """What each process says, in the order of the ranks; every process gets all of it."""
        if self.control is None:
            return [value]
        told: list[Any] = [None] * self.count
        _reached(lambda: dist.all_gather_object(told, value, group=self.control))
        return told

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value among all processes."""
        if self.control is None:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        _reached(lambda: dist.all_reduce(told, dist.ReduceOp.MAX, group=self.control))
        return [float(value) for value in told]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes; if that fails, it fails everywhere.

        Raises:
            Verse3dError: the one that was raised on rank 0.
        """
        if self.control is None:
            return make()
        made: T | None = None
        failure: Verse3dError | None = None
        if self.is_first:
            try:
                made = make()
            except Verse3dError as error:
                failure = error
        # The error without its cause, which need not survive the journey to another process.
        portable = None if failure is None else type(failure)(failure.message, hint=failure.hint)
        made, failure = self.gather((made, portable))[0]
        if failure is not None:
            raise failure
        return made  # type: ignore[return-value]  # rank 0 has made it, or has failed

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes; its gradient is that of this process's own part.

        So that a loss made of such sums is that of the joint batch on every process, and the sum of the gradients of
        all processes is its gradient.
        """
        if self.control is None:
            return tensor
        summed: torch.Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return summed

    def sum_gradients(self, network: torch.nn.Module) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.control is None:
            return
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        _reached(lambda: dist.all_reduce(flat))
        for gradient, part in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def copy_from_first(self, network: torch.nn.Module, *, buffers_only: bool = False) -> None:
        """Give every process rank 0's weights and buffers (running means of a normalisation)."""
        if self.control is None:
            return
        values = list(network.buffers())
        if not buffers_only:
            values = list(network.state_dict().values())
        for value in values:
            _reached(partial(dist.broadcast, value.data, src=0))


class _Sum(torch.autograd.Function):
    """A sum over processes that hands the gradient back as it is."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - PyTorch's context
        summed = tensor.detach().clone()
        _reached(lambda: dist.all_reduce(summed))
        return summed

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        return gradient


def _reached(talk: Callable[[], object]) -> None:
    """Talk to the other processes.

    Raises:
        TrainingError: one of them has ended.
    """
    try:
        talk()
    except RuntimeError as error:  # DistBackendError is one, too
        raise TrainingError(
            f"another process of this run cannot be reached any more: {str(error).splitlines()[0][:200]}",
            hint="its own message says why it ended; the run can be resumed, also with another number of processes",
        ) from error


def started_ranks() -> tuple[int, int, int]:
    """(rank, count, local rank) as torchrun tells them; (0, 1, 0) for a process by itself.

    Raises:
        ConfigError: the environment holds numbers that make no sense.
    """
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if told[0] is None or told[1] is None:
        return 0, 1, 0
    try:
        rank, count, local = int(told[0]), int(told[1]), int(told[2] or 0)
    except ValueError:
        rank, count, local = -1, 0, 0
    if not (0 <= rank < count and 0 <= local < count):
        raise ConfigError(
            f"the environment says RANK={told[0]}, WORLD_SIZE={told[1]}, LOCAL_RANK={told[2]}: no process is that",
            hint="start with torchrun, or unset RANK and WORLD_SIZE to train with one process",
        )
    return rank, count, local


def rank_device(device: torch.device, local_rank: int, count: int) -> torch.device:
    """Where this process learns: its own GPU of the machine, or the CPU.

    Raises:
        ConfigError: the machine has fewer GPUs than processes.
    """
    if device.type == "cpu" or count == 1:
        return device
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}",
            hint="let torchrun start as many processes per machine as it has GPUs",
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes of the run, if it was started as several.

    Raises:
        ConfigError: the environment of the process makes no sense, or they do not meet.
    """
    rank, count, _ = started_ranks()
    if count == 1:
        yield Ranks()
        return
    slurm = os.environ.pop("SLURM_JOB_ID", None)  # seeing it, ignite would believe Slurm's numbers and not torchrun's
    try:
        idist.initialize("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {rank} of {count} does not meet the others: {str(error).splitlines()[0][:200]}",
            hint="MASTER_ADDR and MASTER_PORT must name a free port of the first machine; torchrun sets them",
        ) from error
    try:
        here = idist.get_nproc_per_node()
        yield Ranks(rank, count, here, dist.new_group(backend="gloo", timeout=_PATIENCE))
    finally:
        idist.finalize()  # which also sets the environment back to what it was
        if slurm is not None:
            os.environ["SLURM_JOB_ID"] = slurm
