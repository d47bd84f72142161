"""``python -m fuzz``: a campaign, or one input of it again."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded: workers share the cores

from fuzz import campaign
from fuzz.target import Target
from fuzz.targets import TARGETS
from fuzz.ticket import Ticket, Verdict

_EVERY = 1000


def main() -> int:
    """Exit code 1 if there is a finding."""
    options = _options().parse_args()
    chosen = {name: TARGETS[name] for name in options.targets.split(",")} if options.targets else TARGETS
    if options.replay:
        return _replay([Ticket.parsed(text) for text in options.replay], chosen)
    report = campaign.run(chosen, seed=options.seed, count=options.count, workers=options.workers, told=_tell)
    campaign.save(report.findings, options.out / "findings.jsonl")
    (options.out / "report.txt").write_text(report.table() + "\n", encoding="utf-8")
    print(report.table())
    return int(bool(report.findings))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Damaged input by the thousand.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=15_000, help="inputs, all targets together")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--targets", default="", help="names with commas; default all: " + ", ".join(TARGETS))
    parser.add_argument("--replay", nargs="+", metavar="TARGET:SEED:NUMBER", help="read these inputs again")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder for findings and the report")
    return parser


def _tell(verdict: Verdict, report: campaign.Report) -> None:
    if verdict.outcome == "finding":
        words, reason = " ".join(verdict.words[:100].split()), verdict.reason.splitlines()[0][:200]
        print(f"{verdict.ticket}  {words}\n    {reason}", flush=True)
    if report.inputs % _EVERY == 0:
        print(f"... {report.inputs} inputs, {report.minutes:.1f} minutes", flush=True)


def _replay(tickets: list[Ticket], kinds: Mapping[str, type[Target]]) -> int:
    found = 0
    for verdict in campaign.replayed(tickets, kinds):
        print(f"{verdict.ticket}: {verdict.outcome} ({verdict.cpu_s:.2f} s, {verdict.memory_mb:.0f} MB)")
        print(f"  input: {verdict.words}\n  {verdict.reason}")
        found += verdict.outcome == "finding"
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
