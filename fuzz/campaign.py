"""A campaign: so many inputs for every target, shared among workers, and a report of what came of them."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.target import Target
from fuzz.ticket import Ticket, Verdict
from fuzz.watch import Worker

_LOOK_EVERY_S = 0.02


@dataclass
class Tally:
    """What came of the inputs of one target."""

    right: int = 0
    refused: int = 0
    findings: int = 0
    slowest_s: float = 0.0
    largest_mb: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count one more."""
        self.right += verdict.outcome == "right"
        self.refused += verdict.outcome == "refused"
        self.findings += verdict.outcome == "finding"
        self.slowest_s = max(self.slowest_s, verdict.cpu_s)
        self.largest_mb = max(self.largest_mb, verdict.memory_mb)

    @property
    def inputs(self) -> int:
        """All of them."""
        return self.right + self.refused + self.findings


@dataclass
class Report:
    """What came of a campaign."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Verdict] = field(default_factory=list)
    minutes: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count a verdict, and keep it if it is a finding."""
        self.tallies.setdefault(verdict.ticket.target, Tally()).add(verdict)
        if verdict.outcome == "finding":
            self.findings.append(verdict)

    @property
    def inputs(self) -> int:
        """Of all targets."""
        return sum(tally.inputs for tally in self.tallies.values())

    def table(self) -> str:
        """A line per target."""
        head = f"{'target':<14}{'inputs':>8}{'right':>8}{'refused':>9}{'findings':>10}{'slowest s':>11}{'most MB':>9}"
        lines = [
            f"{name:<14}{one.inputs:>8}{one.right:>8}{one.refused:>9}{one.findings:>10}"
            f"{one.slowest_s:>11.2f}{one.largest_mb:>9.0f}"
            for name, one in sorted(self.tallies.items())
        ]
        total = f"{self.inputs} inputs, {len(self.findings)} findings, {self.minutes:.1f} minutes"
        return "\n".join([head, *lines, total])


def past_tickets(kinds: Mapping[str, type[Target]]) -> list[Ticket]:
    """The undamaged original and the past failures of every target."""
    with TemporaryDirectory(prefix="fuzz-") as folder:
        worker = Worker(kinds, Path(folder))
        try:
            past = [Ticket.of_past(target, name) for target in kinds for name in worker.past_names(target)]
            return [*map(Ticket.of_intact, kinds), *past]
        finally:
            worker.stop()


def drawn_tickets(kinds: Mapping[str, type[Target]], seed: int, count: int) -> list[Ticket]:
    """``count`` inputs by the targets' shares, mixed evenly: a campaign that is stopped has seen all targets."""
    total = sum(kind.share for kind in kinds.values())
    shares = {name: max(1, round(count * kind.share / total)) for name, kind in kinds.items()}
    spread = sorted(((number + 0.5) / share, name, number) for name, share in shares.items() for number in range(share))
    return [Ticket(name, str(seed), str(number)) for _, name, number in spread]


def run(
    kinds: Mapping[str, type[Target]],
    *,
    seed: int,
    count: int,
    workers: int = 2,
    told: Callable[[Verdict, Report], None] = lambda verdict, report: None,
) -> Report:
    """Read ``count`` inputs and the past failures. ``told`` hears every verdict, and the report so far."""
    started, report = time.monotonic(), Report()
    todo = [*past_tickets(kinds), *drawn_tickets(kinds, seed, count)]
    for verdict in replayed(todo, kinds, workers=workers):
        report.add(verdict)
        report.minutes = (time.monotonic() - started) / 60
        told(verdict, report)
    return report


def replayed(todo: Iterable[Ticket], kinds: Mapping[str, type[Target]], *, workers: int = 1) -> Iterator[Verdict]:
    """What comes of these inputs, as they are finished."""
    with TemporaryDirectory(prefix="fuzz-") as folder:
        crew = [Worker(kinds, Path(folder) / f"worker{number}") for number in range(workers)]
        try:
            yield from _verdicts(crew, iter(todo))
        finally:
            for worker in crew:
                worker.stop()


def _verdicts(crew: Sequence[Worker], todo: Iterator[Ticket]) -> Iterator[Verdict]:
    for worker in crew:
        _give_next(worker, todo)
    while busy := [worker for worker in crew if worker.ticket]:
        connection.wait([worker.pipe for worker in busy], timeout=_LOOK_EVERY_S)
        for worker in busy:
            if verdict := worker.verdict():
                _give_next(worker, todo)
                yield verdict


def _give_next(worker: Worker, todo: Iterator[Ticket]) -> None:
    if ticket := next(todo, None):
        worker.give(ticket)


def save(findings: Iterable[Verdict], path: Path) -> None:
    """Write findings as JSON lines: the ticket (which replays it), the mutation in words, and what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({**asdict(one), "ticket": str(one.ticket)}) for one in findings]
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
