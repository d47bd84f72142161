"""Used by the benchmarks of prediction: the two ways from a scan to a mask, as programs to run."""

import compileall
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from measuring import Outcome, described, record_of, run_program
from monai_stock import POSTFIX
from scans import make_scan

import verse3d
from verse3d.core.nifti_header import nifti_stem

TINY = "64x64x48"


@dataclass(frozen=True)
class Variant:
    """One way to call ``verse3d predict``: what is added to the command, and the number format of the model file."""

    arguments: tuple[str, ...] = ()
    amp: str = "auto"


VARIANTS = {
    "auto": Variant(),
    "auto-f32": Variant(amp="off"),
    "torch": Variant(("--backend", "torch")),
    "torch-f32": Variant(("--backend", "torch"), amp="off"),
    "torch-noskip": Variant(("--backend", "torch", "--no-skip-air")),
    "openvino": Variant(("--backend", "openvino")),
    "openvino-f32": Variant(("--backend", "openvino"), amp="off"),
    "openvino-noskip": Variant(("--backend", "openvino", "--no-skip-air")),
}

_IMPORTS = "import verse3d.api.predicting, verse3d.inference.loading, verse3d.inference.predict"
_OURS = """
import json, sys, time
from verse3d import cli
main = cli.main
def timed():
    {imports}
    start = time.perf_counter()
    code = main(sys.argv[2:])
    seconds = time.perf_counter() - start
    from verse3d.core.runtime import peak_rss_mb
    with open(sys.argv[1], "w") as note:
        json.dump({{"seconds": seconds, "peak_rss_mb": peak_rss_mb()}}, note)
    return code
cli.main = timed
cli.run()
"""
"""The program verse3d, with a clock between its imports and its work."""


def known(variants: list[str]) -> list[str]:
    """Those that this verse3d has the options for; says which it leaves out."""
    shown = subprocess.run(
        [sys.executable, "-m", "verse3d", "predict", "--help"], check=True, capture_output=True, text=True
    ).stdout
    possible = []
    for name in variants:
        missing = [word for word in VARIANTS[name].arguments if word.startswith("--") and word not in shown]
        if missing:
            print(f"{name}: left out, this verse3d has no {' '.join(missing)}")
        else:
            possible.append(name)
    return possible


def compile_package() -> None:
    """Write the bytecode of verse3d, as pip does; a checkout may lack it, and then every start compiles it anew."""
    compileall.compile_dir(Path(verse3d.__file__).parent, quiet=1)


def run_ours(
    scan: Path, model: Path, out: Path, arguments: tuple[str, ...] = (), *, imports_first: bool = True
) -> Outcome:
    """``verse3d predict`` of one scan into the folder ``out``, which is emptied first; draws no picture of the mask.

    Seconds go from the end of the imports on, as for the stock pipeline. The command itself unpacks the scan while it
    imports: ``imports_first=False`` leaves that as it is, for those who look at the whole process.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = ["-q", "predict", str(scan), "--model", str(model), "--out", str(out), "--device", "cpu", "--overwrite"]
    command.append("--no-preview")  # the stock pipeline draws none
    note = _note(out)
    program = _OURS.format(imports=_IMPORTS if imports_first else "")
    return run_program([sys.executable, "-c", program, str(note), *command, *arguments], note)


def call_once(name: str, model: Path, work: Path) -> None:
    """Predict a tiny scan, so that what is done once per model (a backend may convert it) is not measured later."""
    outcome = run_ours(make_scan(work, TINY), model, work / "masks" / "first-call", VARIANTS[name].arguments)
    print(f"{name}, first call with this model, on a tiny scan: {described(outcome)}", flush=True)


@dataclass(frozen=True)
class Stock:
    """How the stock pipeline is called."""

    windows_per_batch: int
    overlap: float
    carry: str = "probabilities"
    limit_gb: float | None = None

    def run(self, scan: Path, model: Path, out: Path) -> Outcome:
        """The stock MONAI pipeline, one scan into the folder ``out``, which is emptied first."""
        shutil.rmtree(out, ignore_errors=True)
        note = _note(out)
        settings = ["--windows-per-batch", str(self.windows_per_batch), "--overlap", str(self.overlap)]
        command = [*_stock(scan, model, note), "--out", str(out), "--carry", self.carry, *settings]
        return run_program(command, note, limit_gb=self.limit_gb)


def quickest_batch(scan: Path, model: Path, work: Path) -> int:
    """How many windows at once suit the stock pipeline best on this machine; prints what was tried."""
    note = _note(work / "calibration")
    outcome = run_program([*_stock(scan, model, note), "--calibrate"], note)
    if outcome.trouble:
        raise SystemExit(f"the stock pipeline cannot be tried: {outcome.trouble}")
    seconds = {int(size): value for size, value in json.loads(note.read_text())["seconds_per_window"].items()}
    best = min(seconds, key=lambda size: seconds[size])
    tried = ", ".join(f"{size}: {value:.2f} s" for size, value in seconds.items())
    print(f"stock MONAI, seconds per window by windows per batch: {tried}; takes {best}", flush=True)
    return best


def our_mask(out: Path) -> Path:
    """Where ``run_ours`` leaves the mask."""
    return out / str(record_of(out)["mask"])


def stock_mask(scan: Path, out: Path) -> Path:
    """Where ``Stock.run`` leaves the mask, in network ids."""
    return out / f"{nifti_stem(scan)}_{POSTFIX}.nii.gz"


def _stock(scan: Path, model: Path, note: Path) -> list[str]:
    program = Path(__file__).with_name("monai_stock.py")
    return [sys.executable, str(program), str(scan), "--model", str(model), "--note", str(note)]


def _note(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / "note.json"
