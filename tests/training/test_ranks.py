"""Several processes that share a run learn what one would: on the CPU, over Gloo, told what torchrun tells them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from tests import scans
from tests.scans import tiny_config
from tests.training.ranks_job import SCHEMES, gradients
from tests.training.runs import CPU, load, rows, train
from verse3d.core.errors import ConfigError, DataError
from verse3d.data.cases import read_index, write_index
from verse3d.data.samples.patches import BatchStream
from verse3d.model.losses import build_loss
from verse3d.training import ranks as rank_module
from verse3d.training.fit import fit
from verse3d.training.ranks import Ranks, joined, rank_device, started_ranks
from verse3d.training.session import FitOptions

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Call with a count and a job: the exit codes and error output of so many processes that do it together.

    As with torchrun, one that fails ends all. They are forked from a program that has loaded PyTorch once for all.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.ranks_job"]
    program = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(count, *arguments):
        folder, port = tmp_path_factory.mktemp("told"), str(free_port())
        errors = [folder / f"{rank}.txt" for rank in range(count)]
        job = {
            "arguments": list(map(str, arguments)),
            "processes": [(environment_of(rank, count, port), str(path)) for rank, path in enumerate(errors)],
        }
        program.stdin.write(json.dumps(job) + "\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline()), [path.read_text() for path in errors]

    yield call
    program.stdin.close()
    assert program.wait(60) == 0


def environment_of(rank, count, port):
    """What torchrun tells a process, and Slurm one that is a single task of a job on several machines."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        **{"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"},
        **{"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost"},
    }


@pytest.mark.slow  # five processes
def test_the_gradient_and_loss_of_2_and_3_processes_are_those_of_the_joint_batch_of_one(together, tmp_path):
    alone = gradients(Ranks())
    for count in (2, 3):
        codes, errors = together(count, "gradients", tmp_path)
        assert codes == [0] * count, errors
        for rank in range(count):
            found = load(tmp_path / f"gradients{count}-{rank}.pt")
            for name in SCHEMES:
                for part in ("loss", "length", "gradient"):
                    torch.testing.assert_close(found[name][part], alone[name][part], rtol=2e-4, atol=2e-6, msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of four training cases and three to validate on, and the config of a run."""
    folder = tmp_path_factory.mktemp("shared")
    splits = ("train", "validation", "train", "train", "validation", "train", "validation")
    index = scans.write_dataset(folder / "data", splits)
    write_index(folder / "cases.jsonl", index)
    sections = {
        "sampling": {"batch_size": 3},
        "optim": {"ema_decay": 0.5, "epochs": 3},
        "validation": {"loss_batches": 5},
        "runtime": {"workers": 0, "amp": "off", "deterministic": True},
    }
    torch.save(sections, folder / "sections.pt")
    train(index, folder / "alone", tiny_config(**sections))
    return folder


def assert_near(one, other):
    """The same run but for rounding: losses, rates, lengths of gradients, scores.

    Not single weights: a bias before a normalisation has no gradient but rounding, which AdamW makes a step of.
    """
    for a, b in zip(rows(one), rows(other), strict=True):
        for name in ("epoch", "step", "lr"):
            assert float(a[name]) == float(b[name])
        for name in ("train_loss", "validation_loss", "validation_dice", "grad_norm"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-4), name


@pytest.mark.slow
def test_a_run_of_2_and_of_3_processes_is_that_of_one_and_leaves_one_run_folder(together, folder):
    for count in (2, 3):
        out = folder / f"of{count}"
        codes, errors = together(count, "train", out)
        assert codes == [0] * count, errors
        assert_near(folder / "alone", out)
        # Alone it has found its cases prepared beside the scans; these prepare them in their own folder.
        files = {path.name for path in (folder / "alone").iterdir()}
        assert {path.name for path in out.iterdir()} == files | {"cases.store"}
        log = (out / "log.txt").read_text()
        assert log.count("epoch 1: loss") == 1 and f"{count} processes" in log


@pytest.mark.slow
def test_two_processes_say_of_names_what_one_says(together, folder):
    index, place = read_index(folder / "cases.jsonl"), folder / "names"
    names = {"labels": {"scheme": "vertebrae", "naming": "sequence", "cut_vertebrae": "ignore"}}
    sections = load(folder / "sections.pt") | names | {"loss": {"name": "dice_ce"}, "scout": {"enabled": True}}
    sections["optim"] = {"epochs": 1, "steps_per_epoch": 9}  # so that the scout takes a step
    place.mkdir()
    write_index(place / "cases.jsonl", index)
    torch.save(sections, place / "sections.pt")
    train(index, place / "alone", tiny_config(**sections))
    codes, errors = together(2, "train", place / "of2")
    assert codes == [0, 0], errors
    assert_near(place / "alone", place / "of2")
    one, two = ((place / run / "log.txt").read_text() for run in ("alone", "of2"))
    (rate,) = re.findall(r"id-rate \d\.\d+", one)
    assert re.findall(r"id-rate \d\.\d+", two) == [rate]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(together, folder):
    out = folder / "fewer"
    assert together(3, "train", out, 1)[0] == [0, 0, 0]
    codes, errors = together(2, "resume", out)
    assert codes == [0, 0], errors
    assert_near(folder / "alone", out)
    index = read_index(folder / "cases.jsonl")
    again = folder / "alone-again"
    assert together(2, "train", again, 2)[0] == [0, 0]
    train(index, again, tiny_config(**load(folder / "sections.pt")), resume=True)
    assert_near(folder / "alone", again)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on(together, folder):
    out = folder / "signalled"
    codes, errors = together(2, "signal", out, 3, int(signal.SIGTERM), 1)
    assert codes == [75, 75], errors
    step = load(out / "last.pt")["training"]["standing"]["step"]
    assert step in (3, 4)
    assert len(load(out / "last.pt")["training"]["others"]) == 1
    assert together(2, "resume", out)[0] == [0, 0]
    assert_near(folder / "alone", out)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_word_and_the_run_goes_on(together, folder):
    out = folder / "killed"
    codes, errors = together(2, "signal", out, 3, int(signal.SIGKILL), 1)
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert "another process of this run cannot be reached" in errors[0]
    assert together(2, "resume", out)[0] == [0, 0]
    assert_near(folder / "alone", out)


# --- without other processes


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_batch_is_divided_without_gaps_or_duplicates_also_when_it_begins_within_an_epoch(ranks):
    streams = [
        iter(BatchStream(length=12, batch_size=4, epoch=2, step=1, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]
    whole = iter(BatchStream(length=12, batch_size=4, epoch=2, step=1))
    for _ in range(7):
        parts = [next(stream) for stream in streams]
        assert sorted(place for part in parts for place in part) == next(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_by_itself_is_a_group_of_one_that_talks_to_nobody():
    alone = Ranks()
    assert (alone.is_first, alone.gather("a"), alone.largest([3, -1.5])) == (True, ["a"], [3, -1.5])
    assert alone.share(["a", "b"]) == ["a", "b"] and alone.from_first(lambda: 7) == 7
    tensor = torch.ones(3)
    assert alone.add_up(tensor) is tensor
    with joined(CPU) as ranks:
        assert ranks == alone


@pytest.mark.parametrize("name", SCHEMES)
def test_the_loss_made_of_sums_is_that_of_the_library_and_so_is_its_gradient(name):
    config = tiny_config(**SCHEMES[name])
    labels = 27 if name.startswith("levels") else 1
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(3, labels, 5, 7, 6, generator=random, requires_grad=True)
    label = torch.randint(0, labels + (labels == 1), (3, 1, 5, 7, 6), generator=random, dtype=torch.uint8)
    label[2] = 0
    if config.loss.name == "bce":
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float())
    else:
        several = {"softmax": True, "to_onehot_y": True, "include_background": False}
        measure = {"dice": DiceLoss, "dice_ce": DiceCELoss}[config.loss.name]
        wanted = measure(batch=True, **(several if labels > 1 else {"sigmoid": True}))(logits, label)
    found = build_loss(config.loss, config.labels, config.grid.spacing_mm)(logits, label)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


def test_more_processes_than_training_cases_or_samples_in_a_batch_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="4 processes share a run of 3 training cases") as caught:
        fit(tiny_config(), dataset, tmp_path / "run", FitOptions(device=CPU, ranks=Ranks(0, 4)))
    assert "at most 3" in caught.value.hint
    with pytest.raises(ConfigError, match="a batch of 2 cannot be divided among 3 processes"):
        fit(tiny_config(), dataset, tmp_path / "run", FitOptions(device=CPU, ranks=Ranks(0, 3)))
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"WORLD_SIZE": "4"}, (0, 1, 0)),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (2, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1, 0)),
    ],
)
def test_who_a_process_is_says_the_environment(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started_ranks() == expected


@pytest.mark.parametrize(
    ("rank", "count", "local"), [("4", "4", "0"), ("-1", "2", "0"), ("a", "2", "0"), ("1", "2", "x")]
)
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch, rank, count, local):
    for name, value in {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="no process is that"):
        started_ranks()


def test_processes_that_cannot_meet_are_told_what_they_need(monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("The server socket has failed to listen")

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_module.idist, "initialize", refused)
    with (
        pytest.raises(ConfigError, match="process 0 of 2 does not meet the others: The server socket") as caught,
        joined(CPU),
    ):
        pass
    assert "MASTER_PORT" in caught.value.hint


def test_every_process_has_a_gpu_of_its_own_or_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert rank_device(CPU, 5, 8) == CPU
    assert rank_device(cuda, 0, 1) == cuda
    assert rank_device(cuda, 1, 4) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU: there are 2"):
        rank_device(cuda, 2, 4)


def test_an_error_on_the_first_process_is_the_error_of_all(monkeypatch):
    """With the words of both processes laid out here, one after the other."""
    told = []
    monkeypatch.setattr(Ranks, "gather", lambda self, value: told.append(value) or told[:1])
    first, second = Ranks(0, 2, 2, object()), Ranks(1, 2, 2, object())

    def fail():
        raise DataError("it holds a run", hint="choose another")

    for one in (first, second):
        with pytest.raises(DataError, match="it holds a run") as caught:
            one.from_first(fail)
        assert caught.value.hint == "choose another"
