"""Peak resident memory of whole `verse3d predict` processes, against what they may take and what they foretold.

    python benchmarks/memory.py                                   # large scans, each once, then the growth
    python benchmarks/memory.py --ours openvino --max-ram-gb 3    # with a budget
    python benchmarks/memory.py --growth-only --weights random    # needs no training
    python benchmarks/memory.py --quick                           # tiny scans: only to see whether it works

For every scan: the peak that the kernel counted, the one that verse3d foretold in predictions.json, and the most that
is allowed. Then 2 and 27 classes on one scan, with verse3d and with the stock MONAI pipeline (monai_stock.py): how much
more memory do 25 more classes take? At most 10 % of the growth of the stock pipeline is wanted. GB are 10^9 bytes. The
last line is JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import Outcome, alone_in, described, machine, record_of
from models import SCHEMES, model_for, random_model
from pipelines import TINY, VARIANTS, Stock, known, run_ours
from scans import make_scan

from verse3d.core.memory import free_memory_bytes

CASES = (("512x512x500", 2, 3.0), ("512x512x500", 27, 3.0), ("512x512x1500", 27, 4.0))
"""Size, classes, most GB."""
GROWTH_SCAN, MOST_GROWTH = "256x256x200", 0.10


def main() -> None:
    """Measure and print."""
    options = _options()
    with alone_in(options.work):
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    print(f"overlap {options.overlap}, {machine()}")
    cases: list[dict[str, Any]] = []
    growth: dict[str, dict[str, float]] = {}
    stock: list[Outcome] = []
    for name in known(options.ours.split(",")):
        for usual_size, classes, most_gb in () if options.growth_only else CASES:
            size = TINY if options.quick else usual_size
            outcome, foretold = _ours(size, classes, name, options)
            verdict = outcome.trouble or ("ok" if outcome.peak_mb <= most_gb * 1e3 else "TOO MUCH")
            print(
                f"{name:16} {size:>12} {classes:3} classes: peak {outcome.peak_mb / 1e3:5.2f} GB, {foretold}, "
                f"at most {most_gb:g} GB: {verdict}   ({outcome.seconds:.1f} s)",
                flush=True,
            )
            cases.append({"ours": name, "scan": size, "classes": classes, "peak_gb": round(outcome.peak_mb / 1e3, 3)})
        stock = stock or [_stock(classes, options) for classes in SCHEMES]
        growth[name] = _print_growth(name, stock, options)
    print(json.dumps({"machine": machine(), "cases": cases, "growth": growth}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="torch,openvino", help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--max-ram-gb", type=float, help="given to verse3d predict")
    parser.add_argument("--overlap", type=float, default=0.25, help="of neighbouring windows")
    parser.add_argument("--growth-only", action="store_true", help="leave the large scans out")
    parser.add_argument("--weights", choices=("trained", "random"), default="trained", help="random: masks of noise")
    parser.add_argument("--quick", action="store_true", help=f"{TINY} instead of every size")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for models, scans, masks")
    parser.add_argument("--steps", type=int, help="of the training of the models, instead of the usual ones")
    return parser.parse_args()


def _ours(size: str, classes: int, name: str, options: argparse.Namespace) -> tuple[Outcome, str]:
    variant, out = VARIANTS[name], options.work / "masks" / f"memory-{name}-{classes}"
    model = _model(classes, variant.amp, options)
    budget = () if options.max_ram_gb is None else ("--max-ram-gb", str(options.max_ram_gb))
    outcome = run_ours(make_scan(options.work, size), model, out, (*variant.arguments, *budget))
    return outcome, "nothing foretold" if outcome.trouble else _foretold(record_of(out))


def _model(classes: int, amp: str, options: argparse.Namespace) -> Path:
    if options.weights == "random":
        return random_model(options.work, classes, overlap=options.overlap, amp=amp)
    return model_for(options.work, classes, overlap=options.overlap, amp=amp, steps=options.steps)


def _foretold(record: dict[str, Any]) -> str:
    plan = record.get("plan")
    return f"foretold {plan['peak_mb'] / 1e3:.2f} GB" if plan else "nothing foretold"


def _print_growth(name: str, theirs: list[Outcome], options: argparse.Namespace) -> dict[str, float]:
    """How much more 25 more classes take; the MB of both sides, and ours as a share of theirs; empty if one failed."""
    size = TINY if options.quick else GROWTH_SCAN
    ours = [_ours(size, classes, name, options)[0] for classes in SCHEMES]
    for who, (two, many) in ((name, ours), ("stock MONAI", theirs)):
        print(f"{who:16} {size:>12}   2 classes: {described(two)}\n{'':32}27 classes: {described(many)}")
    if any(outcome.trouble for outcome in (*ours, *theirs)):
        print("growth: cannot be told")
        return {}
    grown, stock_grown = (many.peak_mb - two.peak_mb for two, many in (ours, theirs))
    share = grown / stock_grown
    print(
        f"growth from 2 to 27 classes: {name} {grown:.0f} MB, stock MONAI {stock_grown:.0f} MB: {100 * share:.1f} % "
        f"(at most {100 * MOST_GROWTH:.0f} %: {'ok' if share <= MOST_GROWTH else 'TOO MUCH'})",
        flush=True,
    )
    return {"ours_mb": round(grown, 1), "stock_mb": round(stock_grown, 1), "share": round(share, 4)}


def _stock(classes: int, options: argparse.Namespace) -> Outcome:
    size = TINY if options.quick else GROWTH_SCAN
    model = _model(classes, "off", options)
    stock = Stock(1, options.overlap, limit_gb=free_memory_bytes() / 1e9 - 1.0)
    return stock.run(make_scan(options.work, size), model, options.work / "masks" / f"memory-stock-{classes}")


if __name__ == "__main__":
    main()
