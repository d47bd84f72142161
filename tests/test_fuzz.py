"""The watch over damaged inputs sees what goes wrong; a slice of the campaign and of the kills finds nothing."""

import gc
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz import campaign, mutate, watch
from fuzz.judge import LONGEST_MESSAGE
from fuzz.target import Input, Limits, Target, require
from fuzz.targets import TARGETS
from fuzz.ticket import Ticket
from verse3d.core.errors import CheckpointError, DataError

_kept = []


class Sick(Target):
    """Every input is named after what goes wrong when it is read."""

    name = "sick"
    share = 1
    limits = Limits(cpu_s=1.0, memory_mb=60)

    def intact(self, room):
        raise_on_reading = "refuses"
        return Input("intact", raise_on_reading)

    def write(self, dice, room):
        number = dice.randrange(10**6)
        (room.inputs / "number.txt").write_text(str(number))
        return Input(f"number {number}")

    def read(self, room, made):
        if made.expected:
            getattr(self, made.expected)(room)

    def past(self):
        return {name: self._made(name) for name in PROBLEMS}

    @staticmethod
    def _made(name):
        return lambda room: Input(name, name)

    def fine(self, room):
        (room.outputs / "result.txt").write_text("fine")

    def refuses(self, room):
        raise DataError("the number is odd", hint="take an even one")

    def stumbles(self, room):
        raise KeyError("case")

    def answers_wrongly(self, room):
        require(False, "two and two are five")

    def exits(self, room):
        raise SystemExit(0)

    def refuses_with_another_code(self, room):
        raise CheckpointError("no model")

    def says_nothing(self, room):
        raise DataError(" ")

    def says_too_much(self, room):
        raise DataError("x" * (LONGEST_MESSAGE + 1))

    def computes_for_ever(self, room):
        while True:
            pass

    def waits_for_ever(self, room):
        time.sleep(1000)

    def eats_memory(self, room):
        _kept.append(b"x" * 2 * 10**8)

    def eats_memory_in_passing(self, room):
        len(b"x" * 10**8)

    def dies(self, room):
        os._exit(7)

    def writes_outside(self, room):
        (room.outputs / ".." / ".." / "escaped.txt").write_text("out")

    def writes_into_the_inputs(self, room):
        (room.inputs / "cache.txt").write_text("in")

    def leaves_a_temporary_file(self, room):
        (room.outputs / ".verse3d-1-mask.nii").write_text("half")

    def leaves_a_file_open(self, room):
        _kept.append(os.open(os.devnull, os.O_RDONLY))


PROBLEMS = {
    "stumbles": "KeyError",
    "answers_wrongly": "two and two",
    "exits": "SystemExit",
    "refuses_with_another_code": "exit code 4",
    "says_nothing": "without a message",
    "says_too_much": "characters",
    "computes_for_ever": "processor time",
    "waits_for_ever": "hangs",
    "eats_memory": "more memory",
    "eats_memory_in_passing": "more memory",
    "dies": "exit code 7",
    "writes_outside": "outside of the output folder",
    "writes_into_the_inputs": "outside of the output folder",
    "leaves_a_temporary_file": "left behind",
    "leaves_a_file_open": "left open",
    "fine": "",
    "refuses": "odd",
}
SICK = {"sick": Sick}


@pytest.fixture(scope="module")
def verdicts():
    patience, watch._IDLE_S = watch._IDLE_S, 3.0
    tickets = [Ticket.of_past("sick", name) for name in PROBLEMS]
    try:
        return {verdict.ticket.what: verdict for verdict in campaign.replayed(tickets, SICK)}
    finally:
        watch._IDLE_S = patience
        gc.collect()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_watch_tells_what_is_wrong_and_goes_on(verdicts, problem):
    verdict = verdicts[problem]
    assert verdict.outcome == {"fine": "right", "refuses": "refused"}.get(problem, "finding")
    assert PROBLEMS[problem] in verdict.reason


def test_a_target_that_refuses_its_own_original_is_a_finding():
    (verdict,) = campaign.replayed([Ticket.of_intact("sick")], SICK)
    assert verdict.outcome == "finding" and "undamaged original" in verdict.reason


def test_a_ticket_makes_the_same_input_whenever_it_is_read():
    tickets = [Ticket("sick", "5", str(number)) for number in range(8)]
    words = [
        {verdict.ticket: verdict.words for verdict in campaign.replayed(some, SICK, workers=2)}
        for some in (tickets, tickets[::-1])
    ]
    assert words[0] == words[1] and len(set(words[0].values())) == 8
    assert Ticket.parsed(str(tickets[3])) == tickets[3]


def test_findings_are_saved_with_what_replays_them(tmp_path, verdicts):
    campaign.save([verdicts["stumbles"]], tmp_path / "runs" / "findings.jsonl")
    assert '"ticket": "sick:past:stumbles"' in (tmp_path / "runs" / "findings.jsonl").read_text()


def test_every_target_gets_its_share():
    drawn = campaign.drawn_tickets(TARGETS, seed=1, count=15_000)
    counts = {name: sum(ticket.target == name for ticket in drawn) for name in TARGETS}
    assert min(counts.values()) >= 100 and abs(sum(counts.values()) - 15_000) < 20
    assert {ticket.target for ticket in drawn[:1500]} == set(TARGETS), "a campaign cut short has seen all of them"


def test_a_mutation_never_changes_the_original():
    original = {"case": "a", "list": [1, {"b": 2}]}
    for number in range(300):
        mutate.tree(random.Random(number), original)
    assert original == {"case": "a", "list": [1, {"b": 2}]}


def run_fuzz(*arguments):
    """In a process of its own: workers are forked from it, and a process that has run networks has threads."""
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_what_once_went_wrong_and_a_minute_of_new_damage_find_nothing():
    done = run_fuzz("fuzz", "--seed", "2026", "--count", "1200")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing():
    done = run_fuzz("fuzz.kill", "--seed", "3", "--kills", "8")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
