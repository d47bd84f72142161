"""A trained model as an object: open it once, segment as many scans as you like, keep nothing on disk."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.files import PathOrText
from verse3d.core.geometry import Geometry
from verse3d.core.labels import Label, LabelScheme, label_counts
from verse3d.core.logs import Progress, no_progress
from verse3d.core.nifti_header import spatial_shape
from verse3d.core.runtime import DeviceName, choose_device, rss_mb
from verse3d.core.volume import Volume, as_grey_values, read_image, stored_voxels, write_labels
from verse3d.inference.backends import BackendName
from verse3d.inference.budget import Budget
from verse3d.inference.loading import open_predictor
from verse3d.inference.memory_plan import Limit
from verse3d.inference.partial import PartialVertebrae, keeps_partial
from verse3d.inference.segment import segment_volume
from verse3d.labelling.vertebrae import NamedVertebra
from verse3d.model.locate import model_files

_IN_MEMORY = Path("(the image in memory)")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The labels of one scan.

    Attributes:
        labels: uint8, in the shape of the scan; 0 is background, see ``Model.labels`` for the other ids.
        affine: world mm (RAS+) from voxel index, (4, 4) float64: the scan's own.
        levels: the names of the labels that occur, from head to tail.
        vertebrae: name, centre, volume, certainty ... of each, from head to tail, of models that name vertebrae in
            sequence; None for all others.
        warnings: what makes the result doubtful, a sentence each.
    """

    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    levels: tuple[str, ...]
    vertebrae: tuple[NamedVertebra, ...] | None
    warnings: tuple[str, ...]
    _header: nib.Nifti1Header
    _scheme: LabelScheme

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.labels.shape))
        return f"<Segmentation {shape}: {' '.join(self.levels) or 'nothing found'}>"

    def to_nifti(self) -> nib.Nifti1Image:
        """The labels as a nibabel image, for viewers and plots."""
        return nib.Nifti1Image(self.labels, self.affine, dtype=np.uint8)

    def save(self, path: PathOrText) -> Path:
        """Write the mask with the geometry fields of the scan's header, bit for bit, as ``predict`` does.

        Raises:
            DataError: the name ends neither with .nii nor with .nii.gz.
            OutputError: the file system refuses.
        """
        target = Path(path)
        # As it came, (i, j, k, 1) perhaps; the mask has the three axes of its grid.
        labels = self.labels.reshape(spatial_shape(self.labels.shape))
        write_labels(target, labels, like=self._header, scheme=self._scheme.name)
        return target


class Model:
    """One model, or several that are averaged, ready to segment. Made by ``verse3d.load_model``."""

    def __init__(self, budget: Budget, paths: Sequence[Path], max_ram_gb: float | None) -> None:
        self._budget, self._max_ram_gb = budget, max_ram_gb
        self.paths = tuple(paths)

    def __repr__(self) -> str:
        mode = self._budget.predictor.method.mode
        files = ", ".join(str(path) for path in self.paths)
        return f"<Model {files}: {mode}, {self._scheme.name}, on {self._budget.predictor.backend.device}>"

    @property
    def labels(self) -> dict[int, str]:
        """What the ids in a mask of this model mean."""
        return {label.id: label.name for label in self._scheme.labels}

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the (first) model's training."""
        return self._budget.predictor.method.settings

    @property
    def _scheme(self) -> LabelScheme:
        return self._budget.predictor.method.scheme

    def segment(
        self,
        scan: "PathOrText | nib.spatialimages.SpatialImage | ArrayLike",
        *,
        affine: ArrayLike | None = None,
        progress: Progress = no_progress,
    ) -> Segmentation:
        """Segment one scan. The labels are those of the mask that ``verse3d.predict`` writes, voxel for voxel.

        Args:
            scan: the path of a NIfTI file, a nibabel image, or an array (I, J, K) of Hounsfield units.
            affine: of an array, and only of one: world mm (RAS+) from voxel index, (4, 4).
            progress: told about the windows; see ``verse3d.progress_bars``.

        Raises:
            DataError: the scan cannot be read, is no single volume, or holds NaN or infinity.
            GeometryError: the affine is missing, singular or not finite, or no CT has such voxels.
            MemoryLimitError: the scan does not fit.
        """
        volume, shape = _volume(scan, affine)
        limit = Limit.of(self._max_ram_gb)
        # Measured anew for each scan: what the caller holds now was not there when the model was opened.
        budget = replace(self._budget, limit=limit, held_mb=rss_mb())
        segmented = segment_volume(budget, volume, progress)
        voxels = label_counts(segmented.labels)
        found: list[Label] = [label for label in self._scheme.labels if voxels[label.id]]
        return Segmentation(
            segmented.labels.reshape(shape),
            volume.geometry.affine.copy(),
            tuple(label.name for label in found),
            None if segmented.named is None else tuple(segmented.named.vertebrae),
            segmented.warnings,
            volume.header,
            self._scheme,
        )


def load_model(
    model: PathOrText | Sequence[PathOrText] | None = None,
    *,
    device: DeviceName = "auto",
    backend: BackendName = "auto",
    tta: bool = False,
    skip_air: bool = True,
    partial: PartialVertebrae = "drop",
    max_ram_gb: float | None = None,
) -> Model:
    """Open a model to segment scans from Python, without files in between.

    Args:
        model: a run folder, or a ``best.pt`` or ``last.pt``. Several are averaged. None for the starter weights.
        device: where to compute: "auto", "cpu" or "cuda".
        backend: what runs the network: "torch", "openvino", or "auto" (the quicker one of these on a CPU).
        tta: average with the prediction of the mirror image; takes twice as long.
        skip_air: leave out windows that hold nothing of the patient.
        partial: "keep" leaves vertebrae that the scan cuts in the labels, where vertebrae are named by their sequence.
            ``Segmentation.vertebrae`` lists them either way.
        max_ram_gb: largest resident memory of the process, GB (10^9 bytes); None: what is free, less a tenth.

    Raises:
        CheckpointError: there is no model, or it is damaged, unsafe, or of another version.
        ConfigError: the models cannot be averaged, the backend cannot be had, or ``partial`` is neither of the two.
        MemoryLimitError: the program and the model alone do not fit.

    Example:
        >>> model = verse3d.load_model("runs/a")  # doctest: +SKIP
        >>> model.segment("scan.nii.gz").levels  # doctest: +SKIP
        ('T11', 'T12', 'L1', 'L2', 'L3', 'L4', 'L5')
    """
    keep_partial = keeps_partial(partial)
    files = model_files(model)
    predictor = open_predictor(
        files, choose_device(device), backend=backend, tta=tta, skip_air=skip_air, keep_partial=keep_partial
    )
    return Model(Budget.measured(predictor, max_ram_gb), files, max_ram_gb)


def _volume(scan: Any, affine: ArrayLike | None) -> tuple[Volume, tuple[int, ...]]:  # noqa: ANN401 - three kinds
    """The scan as a volume, and the shape in which it was given."""
    is_path, is_image = isinstance(scan, str | os.PathLike), isinstance(scan, nib.spatialimages.SpatialImage)
    if (is_path or is_image) and affine is not None:
        raise GeometryError("the file or image has an affine of its own: leave affine out")
    if is_path:
        path = Path(scan)
        return read_image(path), tuple(map(int, stored_voxels(path).header.get_data_shape()))
    if is_image:
        return _of_array(scan.dataobj, scan.affine, scan)
    if affine is None:
        raise GeometryError(
            "an array does not say where its voxels lie: give affine too",
            hint="for example segment(image.get_fdata(), affine=image.affine), or segment(image) itself",
        )
    return _of_array(scan, affine, None)


def _of_array(
    voxels: ArrayLike, affine: ArrayLike, image: nib.spatialimages.SpatialImage | None
) -> tuple[Volume, tuple[int, ...]]:
    array = np.asanyarray(voxels)
    shape = spatial_shape(array.shape)
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"the scan has {array.ndim} axes {array.shape}, expected 3 (one volume)")
    values = as_grey_values(array.reshape(shape), _IN_MEMORY)
    geometry = Geometry(shape, np.asarray(affine, dtype=float))
    return Volume(values, geometry, _header(geometry, image), _IN_MEMORY), array.shape


def _header(geometry: Geometry, image: nib.spatialimages.SpatialImage | None) -> nib.Nifti1Header:
    """A NIfTI image's own header if it places the voxels where the image does, else a plain one on the same grid."""
    # An image that was turned in memory carries the header of the file that it came from.
    if isinstance(image, nib.Nifti1Image) and np.allclose(image.header.get_best_affine(), image.affine):
        return image.header.copy()
    return nib.Nifti1Image(np.broadcast_to(np.uint8(0), geometry.shape), geometry.affine).header
