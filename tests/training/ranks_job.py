"""What processes do that share a run in the tests: ``python -m tests.training.ranks_job`` forks them.

A line of JSON on stdin is a job: its arguments, and for each process the environment that torchrun would give it (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say who it is) and the file for its error output. The exit codes
come back as a line. Forked processes begin with the libraries loaded, which takes each program seconds.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from tests.scans import tiny_config
from verse3d.data.cases import read_index
from verse3d.model.modes import Method
from verse3d.training.fit import fit
from verse3d.training.learner import build_learner
from verse3d.training.ranks import Ranks, joined
from verse3d.training.session import FitOptions
from verse3d.training.step import training_step

CPU = torch.device("cpu")
SCHEMES = {
    "binary": {"loss": {"name": "dice"}},
    "binary-ce": {"loss": {"name": "dice_ce"}},
    "bce": {"loss": {"name": "bce"}},
    "levels": {"labels": {"scheme": "vertebrae"}, "loss": {"name": "dice_ce"}},
    "levels-dice": {"labels": {"scheme": "vertebrae"}, "loss": {"name": "dice"}},
}
BATCH = 5
"""Not divisible by 2 or 3."""


def batch_of(name, size=BATCH):
    """The same joint batch everywhere, with a sample that shows nothing."""
    random = torch.Generator().manual_seed(3)
    image = torch.rand(size, 1, 16, 16, 16, generator=random)
    most = 27 if name.startswith("levels") else 2
    label = torch.randint(0, most, (size, 1, 16, 16, 16), generator=random, dtype=torch.uint8)
    label[1] = 0
    return {"image": image, "label": label}


def gradients(ranks: Ranks) -> dict[str, object]:
    """Loss, length of the gradient and the gradient itself of one step, of every loss."""
    found = {}
    for name, sections in SCHEMES.items():
        torch.manual_seed(1 + 100 * ranks.rank)  # other weights in each process, until they are given rank 0's
        sampling, optim = {"batch_size": BATCH}, {"clip_grad_norm": 0}
        config = tiny_config(**sections, sampling=sampling, optim=optim)
        learner = build_learner(Method(config), config.optim, config.runtime, CPU, ranks)
        batch = {key: value[ranks.rank :: ranks.count] for key, value in batch_of(name).items()}
        result = training_step(learner, batch)
        gradient = torch.cat([weight.grad.reshape(-1) for weight in learner.network.parameters()])
        found[name] = {"loss": result.loss, "length": result.grad_norm, "gradient": gradient}
    return found


def run(ranks: Ranks, folder: Path, **options) -> None:
    """Train on the index beside the run folder, with the config that lies there."""
    sections = torch.load(folder.parent / "sections.pt", weights_only=True)
    result = fit(
        tiny_config(**sections),
        read_index(folder.parent / "cases.jsonl"),
        folder,
        FitOptions(device=CPU, ranks=ranks, **options),
    )
    sys.exit({"finished": 0, "epochs": 0, "terminated": 75, "interrupted": 130}.get(result.stopped, 1))


class Die:
    """A progress callback that kills this process, or sends it a signal, after a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def __call__(self, what, done, total):
        if what.startswith("epoch") and done == self.step:
            os.kill(os.getpid(), self.number)


def do(job: str, folder: Path, *numbers: str) -> None:
    """What one process does. May end with ``SystemExit``."""
    torch.set_num_threads(1)
    with joined(CPU) as ranks:
        if job == "gradients":
            torch.save(gradients(ranks), folder / f"gradients{ranks.count}-{ranks.rank}.pt")
        elif job == "train":
            run(ranks, folder, max_epochs=int(numbers[0]) if numbers else None)
        elif job == "resume":
            run(ranks, folder, resume=True)
        elif job == "signal":  # SIGTERM or SIGKILL reaches one process only
            step, number, victim = map(int, numbers)
            if ranks.rank == victim:
                run(ranks, folder, progress=Die(step, number))
            run(ranks, folder)


def fork(environment: dict[str, str], errors: str, arguments: list[str]) -> int:
    """A process that does a job; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        job, folder, *numbers = arguments
        do(job, Path(folder), *numbers)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # whatever it is, it ends this process and no other
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def exit_codes(children: list[int], patience_s: float = 900.0) -> list[int]:
    """Wait for all of them; who is late is killed."""
    ends, codes = time.monotonic() + patience_s, {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


def main() -> None:
    torch.set_num_threads(1)
    config = tiny_config()
    build_learner(Method(config), config.optim, config.runtime, CPU)  # loads MONAI, too
    for line in sys.stdin:
        job = json.loads(line)
        children = [fork(environment, errors, job["arguments"]) for environment, errors in job["processes"]]
        sys.stdout.write(json.dumps(exit_codes(children)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
