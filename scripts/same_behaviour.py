"""Does the program still do the same? Digests of everything that a small fixed set of commands writes.

    python scripts/same_behaviour.py record before.json          # on the state that is right
    python scripts/same_behaviour.py record after.json           # on the changed state
    python scripts/same_behaviour.py compare before.json after.json

Phantoms are made, indexed, checked, measured, drawn, cut into slices and converted; a tiny 3D and a tiny 2D network
are trained on one thread, and predict, are scored and compared. Masks are compared voxel by voxel and header byte by
header byte, tables and JSON without times, paths, versions and hashes of files that hold such, weights exactly.
The last line of ``compare`` is one JSON object.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TINY = """mode: {mode}
grid: {{spacing_mm: [3.0, 3.0, 3.0]}}
network: {{channels: [4, 8, 16], {network}}}
loss: {{name: dice_ce}}
sampling: {{patch_voxels: [32, 32, 32], batch_size: 2}}
slices: {{size_pixels: [64, 48]}}
optim: {{lr: 0.01, epochs: 2, steps_per_epoch: 6, warmup_steps: 2, ema_decay: 0.9}}
validation: {{every_epochs: 1, pictures: 0}}
runtime: {{amp: "off", workers: 0}}
"""

COMMANDS = (
    "phantom data --cases 4 --seed 5 --anomalies",
    "index data -o cases.jsonl --seed 3",
    "check cases.jsonl --json check.json --workers 1",
    "stats cases.jsonl --out stats --workers 1",
    "look sub-verse900 --data cases.jsonl -o look.png",
    "slices cases.jsonl --out slices --only-labelled --config tiny2d.yaml --workers 1",
    "convert cases.jsonl --to nnunet --out nnunet",
    "convert cases.jsonl --to verse --out verse",
    "train --data cases.jsonl --config tiny3d.yaml --out run3d --device cpu",
    "train --data cases.jsonl --config tiny2d.yaml --out run2d --device cpu",
    "predict cases.jsonl --model run3d/best.pt --out masks3d --device cpu --backend torch",
    "predict cases.jsonl --model run2d/best.pt --out masks2d --device cpu --backend torch",
    "evaluate --pred masks3d --truth cases.jsonl --out scores.json",
    "compare a=run3d b=run2d --data cases.jsonl --split validation --out compare --device cpu --allow-different",
)

VARIES = re.compile(
    r"second|minute|rss|time|date|per_s|version|verse3d|path|folder|hostname|host|pid|sha256|memory|_mb|threads|created"
    r"|plan|about|image|mask|model|backend|waiting|elapsed|eta|stamps|finished|modified|^bytes$|^key$|^check$"
)
"""Keys and columns that differ from run to run."""

HASHED = re.compile(r"(?<=-)[0-9a-f]{20}(?=/)|(?<=\.openvino/)[0-9a-f]{24}(?=/)")
"""What the names of folders tell of the times of files: entries of a store, converted models."""

PREFIX = "verse3d-same-"
FOLDERS = re.compile(rf"\S*/{PREFIX}\w+/?|/\S*/")
"""Where the files lay."""


def run_all(folder: Path) -> dict[str, int]:
    """Run the commands in ``folder``; their exit codes."""
    (folder / "tiny3d.yaml").write_text(TINY.format(mode="3d", network="residual_units: 1"))
    (folder / "tiny2d.yaml").write_text(TINY.format(mode="2d", network="name: classic, norm: batch"))
    package = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    codes = {}
    for command in COMMANDS:
        words = [sys.executable, "-m", "verse3d", "-q", *command.split()]
        codes[command] = subprocess.run(words, cwd=folder, env=env, check=False, stdout=subprocess.DEVNULL).returncode
        print(f"exit {codes[command]}   {command}", flush=True)
    return codes


def digest(path: Path) -> str | None:
    """What is the same in two equal runs; None for files that never are (logs, event files)."""
    for suffixes, reader in READERS.items():
        if path.name.endswith(suffixes):
            return reader(path)
    return None


def _voxels(path: Path) -> str:
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


def _pixels(path: Path) -> str:
    from matplotlib import image  # noqa: PLC0415 - only pictures need it

    return hashlib.sha256(image.imread(path).tobytes()).hexdigest()


def _json(path: Path) -> str:
    return _hash([_settled(json.loads(text)) for text in _json_texts(path)])


def _lines(path: Path) -> str:
    return _hash([line for line in path.read_text().splitlines() if not line.startswith("#")])


def _json_texts(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _weights(path: Path) -> str:
    import torch  # noqa: PLC0415 - only weights need it

    state = torch.load(path, weights_only=True, map_location="cpu")["network"]
    hashed = hashlib.sha256()
    for key in sorted(state):
        hashed.update(key.encode() + state[key].contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _settled(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """JSON without what varies: such keys are dropped, absolute paths in texts too."""
    if isinstance(value, dict):
        return {key: _settled(inner) for key, inner in sorted(value.items()) if not VARIES.search(key)}
    if isinstance(value, list):
        return [_settled(inner) for inner in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _table(path: Path) -> str:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows = [row for row in rows if not VARIES.search(row.get("metric") or "")]
    kept = [{key: cell for key, cell in row.items() if key and not VARIES.search(key)} for row in rows]
    return _hash(_settled(kept))


def _hash(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


READERS = {
    (".nii.gz",): _voxels,
    (".pt",): _weights,
    (".json", ".jsonl"): _json,
    (".csv",): _table,
    (".png",): _pixels,
    (".yaml", "labels.txt"): _lines,
}


def record(out: Path) -> None:
    """Run everything and write digests by file name."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        codes = run_all(folder)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {HASHED.sub("_", path.relative_to(folder).as_posix()): digest(path) for path in paths}
    known = {file: value for file, value in files.items() if value}
    out.write_text(json.dumps({"exit_codes": codes, "files": known, "names": sorted(files)}, indent=1))
    print(json.dumps({"files": len(files), "digests": len(known)}))


def compare(before: Path, after: Path) -> int:
    """Print what differs; 1 if anything does."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    differs = [name for name in old["files"] if name in new["files"] and old["files"][name] != new["files"][name]]
    gone, added = sorted(set(old["files"]) - set(new["files"])), sorted(set(new["files"]) - set(old["files"]))
    codes = [command for command in old["exit_codes"] if old["exit_codes"][command] != new["exit_codes"].get(command)]
    for title, names in (("differs", differs), ("gone", gone), ("new", added), ("exit code", codes)):
        for name in names:
            print(f"{title:10} {name}")
    same = len(old["files"]) - len(differs) - len(gone)
    print(
        json.dumps({"same": same, "differs": len(differs), "gone": len(gone), "new": len(added), "codes": len(codes)})
    )
    return int(bool(differs or gone or codes))


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    if options.what == "compare":
        return compare(*options.files)
    record(options.files[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
