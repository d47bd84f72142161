"""Make the starter weights of a trained run: `python scripts/pack_starter.py RUN verse3d/starter`.

Of the run folder RUN come the weights (as half-precision numbers), the config, the history, and the names of the cases
with their splits; of paths only the file names are kept. What the config says of the machine that trained is left to
the user's, and of the schedule to the config `vertebrae`; a scout learns beside again, and windows overlap by a
quarter. `--last` takes last.pt instead of best.pt, `--average-with` goes half the way back to the weights that the run
began with (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903), `--scout` takes the scout
of another model file, `--lower-background` does what `lower_background.py` has found. Prints what the model card needs.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from lower_background import lowered

from verse3d.core.config import Config, load_config
from verse3d.core.files import make_folder, sha256_of, write_text
from verse3d.data.cases import Case, CaseIndex, read_index, write_index
from verse3d.model.checkpoint import load_checkpoint, save_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.training.runfolder import RunFolder

MOST_BYTES = 10_000_000


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in float16. What leaves its range becomes infinite, which saving refuses."""
    return {name: weight.half() if weight.dtype is torch.float32 else weight for name, weight in weights.items()}


def averaged(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of the weights of two networks, float32."""
    return {
        name: (weight.float() + others[name].float()) / 2 if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }


def farthest(weights: dict[str, torch.Tensor]) -> float:
    """The largest change of a weight by rounding, as a share of the largest weight of its tensor."""
    changes = [
        float((weight - weight.half().float()).abs().max() / weight.abs().max().clamp(min=1e-12))
        for weight in weights.values()
        if weight.dtype is torch.float32
    ]
    return max(changes)


def shipped_config(config: Config) -> Config:
    """As users will predict and go on with it: on a CPU windows that overlap by half take three times as long."""
    named = load_config("vertebrae")
    own = {
        **{section: getattr(named, section) for section in ("sampling", "augment", "optim", "validation")},
        "inference": config.inference.model_copy(update={"overlap": 0.25}),
        "runtime": config.runtime.model_copy(update={"workers": "auto", "compile": "auto"}),
        "scout": config.scout.model_copy(update={"enabled": True}),
    }
    return config.model_copy(update=own)


def sections(config: Config) -> dict[str, object]:
    """What ``shipped_config`` changes for whoever predicts, for the config of a further network."""
    return {"inference": config.inference, "runtime": config.runtime, "scout": config.scout}


def nameless(case: Case, folder: Path) -> Case:
    """A case whose files are named, not where they were: ``not-shipped/a/a_ct.nii.gz``."""
    image, mask = (folder / "not-shipped" / case.case / path.name if path else None for path in (case.image, case.mask))
    return replace(case, image=image, mask=mask, centroids=None, notes=())


def main() -> None:
    """Pack a run, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--last", action="store_true", help="the weights of the end, not of the best epoch")
    parser.add_argument("--average-with", type=Path, metavar="MODEL", help="take the mean of both networks' weights")
    parser.add_argument("--scout", type=Path, help="model file whose scout is taken")
    parser.add_argument("--lower-background", type=float, default=0.0, metavar="LOGIT")
    arguments = parser.parse_args()
    run, out = RunFolder(arguments.run), RunFolder(make_folder(arguments.out))
    checkpoint = load_checkpoint(run.last if arguments.last else run.best)
    if arguments.last:  # its scores are those of the best epoch
        checkpoint = replace(checkpoint, scores={})
    if arguments.average_with:
        before = load_checkpoint(arguments.average_with)
        # What kind of scans it has learnt from is told by the run before, too, which has seen more of them.
        checkpoint = replace(
            checkpoint,
            network=averaged(dict(checkpoint.network), dict(before.network)),
            trained_on=before.trained_on or checkpoint.trained_on,
        )
    checkpoint = lowered(checkpoint, arguments.lower_background)
    if arguments.scout:
        checkpoint = replace(checkpoint, networks={SCOUT: load_checkpoint(arguments.scout).networks[SCOUT]})
    config = shipped_config(checkpoint.config)
    networks = {
        name: replace(part, config=part.config.model_copy(update=sections(config)))
        for name, part in checkpoint.networks.items()
    }
    shipped = replace(checkpoint, config=config, network=halved(checkpoint.network), networks=networks, training={})
    content = save_checkpoint(out.best, shipped)
    write_text(out.config, config.to_yaml())
    write_text(out.history, run.history.read_text(encoding="utf-8"))
    cases = [nameless(case, out.path.absolute()) for case in read_index(run.cases)]
    write_index(out.cases, CaseIndex(tuple(case for case in cases if case.split)))
    size = out.best.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{out.best} has {size} bytes, more than the {MOST_BYTES} that a wheel should carry")
    print(f"{out.best}: {size} bytes, epoch {checkpoint.epoch}, {checkpoint.scores}")
    print(f"largest rounding of a weight: {farthest(checkpoint.network):.2g} of the largest in its tensor")
    print(f"SHA-256 of the file     {sha256_of(out.best)}\nSHA-256 of the content  {content}")


if __name__ == "__main__":
    main()
