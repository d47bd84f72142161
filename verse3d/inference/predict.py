"""From a CT volume to a label map on its own grid, and from files to files."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from verse3d.core.config import Config
from verse3d.core.errors import DataError, GeometryError, Verse3dError
from verse3d.core.files import make_folder, read_json, sha256_of, write_json
from verse3d.core.geometry import Geometry
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.resample import resample_linear, resample_vote
from verse3d.core.runtime import Precision, channels_last, choose_precision, forget_peak_rss, peak_rss_mb
from verse3d.core.volume import LABEL_DESCRIPTION, Volume, read_geometry, read_image, write_labels
from verse3d.data.cases import Case
from verse3d.data.layouts import PREDICTIONS_FILE
from verse3d.data.transforms import prepare_image
from verse3d.inference.postprocess import clean_up
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, load_weights
from verse3d.model.modes import get_mode
from verse3d.version import __version__

MASK_SUFFIX = "_seg-vert_msk.nii.gz"

_log = logger(__name__)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network with everything needed to label whole volumes.

    Attributes:
        network: on ``device``, in evaluation mode.
        config: of the run that trained it.
        device: where the network runs.
        precision: number format of the forward pass.
    """

    network: nn.Module
    config: Config
    device: torch.device
    precision: Precision

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device) -> Self:
        """Read a model file.

        Raises:
            CheckpointError: the file is damaged, unsafe, of another version, or not a model.
        """
        return cls.of(load_checkpoint(path), path, device)

    @classmethod
    def of(cls, checkpoint: Checkpoint, path: Path, device: torch.device) -> Self:
        """Build the network of a checkpoint and fill in its weights."""
        config = checkpoint.config
        network = get_mode(config.mode).network(config)
        load_weights(network, checkpoint.network, path)
        network.to(device).eval()
        return cls(network, config, device, choose_precision(_amp_on(config, device), device))

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        return label_scheme(self.config.labels.scheme)

    def label(self, volume: Volume, progress: Progress = no_progress) -> NDArray[np.uint8]:
        """The labels of a scan as file ids, uint8 (I, J, K) on the source grid."""
        image, grid = prepare_image(volume, self.config.grid)
        # float16, as in training and validation, so that the validation Dice is that of the masks written later.
        return self.scheme.file_from_network(
            self.network_ids(image.astype(np.float16), grid, volume.geometry, progress)
        )

    def network_ids(
        self, image: NDArray[np.floating], grid: Geometry, source: Geometry, progress: Progress = no_progress
    ) -> NDArray[np.uint8]:
        """Segment a prepared image (I, J, K) on the network ``grid``; cleaned network ids, uint8, on ``source``.

        One foreground label travels home as a probability (cut at 0.5), several travel as labels that vote.
        """
        logits = self._logits(image, source, progress)
        if self.scheme.output_channels == 1:
            probability = torch.sigmoid(logits[0, 0]).numpy()
            ids = (resample_linear(probability, grid, source) > 0.5).astype(np.uint8)
        else:
            ids = resample_vote(logits[0].argmax(0).to(torch.uint8).numpy(), grid, source)
        return clean_up(ids, source, self.config.inference)

    def _logits(self, image: NDArray[np.floating], source: Geometry, progress: Progress) -> torch.Tensor:
        """Float32 logits (1, channels, I, J, K) on the CPU."""
        margins = self.config.sampling.margin_voxels
        inferer = get_mode(self.config.mode).inferer(self.config, source)
        framed = np.pad(np.asarray(image, dtype=np.float32), [(margin, margin) for margin in margins])
        i, j, k = framed.shape
        forward = _Counted(self.forward, inferer.pieces((i, j, k)), progress)
        with torch.inference_mode():
            logits = inferer(torch.from_numpy(framed)[None, None], forward)
        sizes = zip(margins, image.shape, strict=True)
        return logits[(slice(None), slice(None), *(slice(margin, margin + size) for margin, size in sizes))]

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Float32 logits (B, channels, ...) on the CPU of what the network looks at once, (B, n, ...)."""
        with self.precision.autocast(self.device):
            outputs = self.network(channels_last(windows.to(self.device)))
        result: torch.Tensor = outputs.float().cpu()
        return result


def _amp_on(config: Config, device: torch.device) -> str:
    """The run's precision where the device has it; a model trained in fp16 on a GPU also runs on a CPU."""
    return "auto" if config.runtime.amp == "fp16" and device.type == "cpu" else config.runtime.amp


class _Counted:
    """A network function that reports each batch of windows or slices."""

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], total: int, progress: Progress) -> None:
        self._forward = forward
        self._total = total
        self._progress = progress
        self._done = 0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        outputs = self._forward(windows)
        self._done += windows.shape[0]
        self._progress("windows", min(self._done, self._total), self._total)
        return outputs


@dataclass(frozen=True)
class PredictionRecord:
    """What happened to one scan. ``status`` is "written", "skipped" or "failed".

    ``seconds`` go from reading the scan to the mask on disk; ``peak_rss_mb`` is the largest resident memory meanwhile
    (where the system cannot count anew for each scan: since the program started). ``model_sha256`` is that of the
    model file; it is empty for a skipped scan, whose mask may be another model's.
    """

    case: str
    image: str
    mask: str
    status: str
    error: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    voxels: int = 0
    labelled_voxels: int = 0
    levels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    model_sha256: str = ""


@dataclass(frozen=True)
class PredictionReport:
    """All records of one call, in the order of the scans."""

    folder: Path
    records: tuple[PredictionRecord, ...] = field(default_factory=tuple)

    @property
    def failures(self) -> tuple[PredictionRecord, ...]:
        """The scans that have no mask now."""
        return tuple(record for record in self.records if record.status == "failed")


def predict_cases(
    cases: Sequence[Case],
    predictor: Predictor,
    out: Path,
    *,
    model: Path,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> PredictionReport:
    """Write one mask per scan into ``out``, and ``predictions.json`` beside them. A bad scan does not stop the rest.

    Raises:
        OutputError: ``out`` cannot be written to.
    """
    make_folder(out)
    manifest = _Manifest(out / PREDICTIONS_FILE, model, predictor)
    job = _Job(predictor, out, sha256_of(model) if model.is_file() else "", overwrite, progress)
    records = []
    for number, case in enumerate(cases):
        progress("scans", number, len(cases))
        record = _predict_one(case, job, manifest.previous(case.case))
        records.append(record)
        manifest.add(record)
        _log_record(record)
    progress("scans", len(cases), len(cases))
    return PredictionReport(out, tuple(records))


def mask_path(out: Path, case: str) -> Path:
    """Where the mask of a case is written."""
    return out / f"{case}{MASK_SUFFIX}"


@dataclass(frozen=True, eq=False)
class _Job:
    """What all scans of one call share."""

    predictor: Predictor
    out: Path
    model_sha256: str
    overwrite: bool
    progress: Progress


def _predict_one(case: Case, job: _Job, previous: dict[str, Any]) -> PredictionRecord:
    target = mask_path(job.out, case.case)
    record = PredictionRecord(case.case, str(case.image or ""), target.name, "failed", model_sha256=job.model_sha256)
    forget_peak_rss()
    start = time.perf_counter()
    try:
        image = case.image_path()
        _refuse_own_output(target, case)
        if target.exists() and not job.overwrite:
            _require_mask_of(target, image, previous)
            return _replace(record, status="skipped", model_sha256="")
        _refuse_foreign_mask(target)
        volume = read_image(image)
        labels = job.predictor.label(volume, job.progress)
        write_labels(target, labels, like=volume.header)
    except (Verse3dError, RuntimeError, MemoryError, OSError, ValueError) as error:
        _log.debug("%s", case.case, exc_info=True)
        message = str(error) if isinstance(error, Verse3dError) else f"{type(error).__name__}: {error}"
        return _replace(record, error=message)
    return _replace(
        record,
        status="written",
        seconds=round(time.perf_counter() - start, 3),
        peak_rss_mb=round(peak_rss_mb(), 1),
        voxels=int(labels.size),
        **_content(labels, job.predictor.scheme, volume),
    )


def _replace(record: PredictionRecord, **changes: Any) -> PredictionRecord:  # noqa: ANN401 - fields of the record
    return PredictionRecord(**{**asdict(record), **changes})


def _content(labels: NDArray[np.uint8], scheme: LabelScheme, volume: Volume) -> dict[str, Any]:
    voxels = np.bincount(labels.ravel(), minlength=256)
    names = tuple(label.name for label in scheme.labels if voxels[label.id])
    warnings = [] if names else ["no vertebra was found: the mask is empty"]
    if volume.array.min() == volume.array.max():
        warnings.append(f"all voxels of the scan have the value {float(volume.array.min()):g}")
    return {"labelled_voxels": int(voxels[1:].sum()), "levels": names, "warnings": tuple(warnings)}


def _refuse_own_output(target: Path, case: Case) -> None:
    """A mask must never take the place of a file that the case consists of."""
    own = [path for path in (case.image, case.mask) if path is not None]
    if target.exists() and any(target.samefile(path) for path in own if path.exists()):
        raise DataError(
            f"{target} is a file of the data set and would be overwritten", hint="choose another --out folder"
        )


def _refuse_foreign_mask(target: Path) -> None:
    """Even ``overwrite`` replaces only what verse3d wrote: anything else may be somebody's truth."""
    if not target.exists():
        return
    if not bytes(read_geometry(target)[1]["descrip"]).startswith(LABEL_DESCRIPTION):
        raise DataError(
            f"{target} exists and was not written by verse3d: it may be a true mask",
            hint="choose another --out folder, or remove the file yourself",
        )


def _require_mask_of(target: Path, image: Path, previous: dict[str, Any]) -> None:
    """A mask that is there already may be kept only if it belongs to this scan."""
    made_from = previous.get("image")
    if previous.get("status") == "failed":
        raise DataError(
            f"{target} exists, but the latest prediction of this case failed", hint="--overwrite replaces it"
        )
    if made_from is not None and Path(made_from).resolve() != image.resolve():
        raise DataError(
            f"{target} was made from another scan ({made_from}), not from {image}",
            hint="choose another --out folder, or --overwrite to replace it",
        )
    try:
        same = read_geometry(target)[0] == read_geometry(image)[0]
    except GeometryError:
        same = False
    if not same:
        raise DataError(f"{target} exists but is not on the grid of {image}", hint="--overwrite replaces it")


def _log_record(record: PredictionRecord) -> None:
    if record.status == "failed":
        _log.error("%s: %s", record.case, record.error)
    elif record.status == "skipped":
        _log.info("%s: kept %s, which exists (--overwrite replaces it)", record.case, record.mask)
    else:
        _log.info("%s: %s in %.1f s", record.case, record.mask, record.seconds)
    for warning in record.warnings:
        _log.log(logging.WARNING, "%s: %s", record.case, warning)


class _Manifest:
    """``predictions.json``: the latest record of every scan whose mask is in the folder. Rewritten after each scan."""

    def __init__(self, path: Path, model: Path, predictor: Predictor) -> None:
        self._path = path
        self._content: dict[str, Any] = {
            "verse3d": __version__,
            "model": str(model),
            "scheme": predictor.scheme.name,
            "device": str(predictor.device),
            "precision": str(predictor.precision.dtype).removeprefix("torch."),
            "config": predictor.config.to_dict(),
        }
        self._records: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._records = {record["case"]: record for record in read_json(path).get("cases", [])}

    def previous(self, case: str) -> dict[str, Any]:
        """The record of an earlier call, or nothing."""
        return self._records.get(case, {})

    def add(self, record: PredictionRecord) -> None:
        """Store a record; a skipped scan keeps the record of the call that wrote its mask."""
        if record.status == "skipped" and record.case in self._records:
            return
        self._records[record.case] = asdict(record)
        write_json(self._path, {**self._content, "cases": list(self._records.values())})
