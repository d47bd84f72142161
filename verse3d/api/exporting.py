"""The job of writing a model for other programs."""

from pathlib import Path

from verse3d.core.files import PathOrText
from verse3d.inference.export import ExportResult, FormatName, export_model
from verse3d.model.locate import model_file

__all__ = ["ExportResult", "export"]


def export(
    *, to: FormatName, out: PathOrText, model: PathOrText | None = None, overwrite: bool = False
) -> ExportResult:
    """Write a model for another runtime, with a README that suffices to use it without verse3d.

    What was written is loaded again by that runtime and compared with PyTorch, in float32, on a synthetic scan.

    Args:
        to: "onnx" (needs ``verse3d[onnx]``), "openvino" (needs ``verse3d[openvino]``) or "torchscript".
        out: the folder to make: the model, its scout if it has one, ``labels.json``, ``export.json``, ``README.md``.
        model: a run folder, or a ``best.pt`` or ``last.pt``; None for the starter weights.
        overwrite: replace an earlier export there; nothing else is ever replaced.

    Returns:
        The files, the shape of a window, and how near the export is to PyTorch.

    Raises:
        ConfigError: the format is unknown, or a package that it needs is missing.
        CheckpointError: the model is damaged, unsafe, or of another version.
        DataError: ``out`` holds something else.
        Verse3dError: the network cannot be exported, or what was written computes something else. Nothing is left.
        OutputError: the folder cannot be written.
    """
    return export_model(model_file(model), to, Path(out), overwrite=overwrite)
