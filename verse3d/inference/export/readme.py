"""What an exported model wants and gives, in words that suffice to use it without verse3d."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from verse3d.core.config import Config
from verse3d.inference.backends.parity import RELATIVE_TOLERANCE, Parity
from verse3d.inference.export.formats import Format
from verse3d.inference.export.readme_names import bones_section, names_section, scout_section
from verse3d.inference.export.scout import ExportedScout


@dataclass(frozen=True)
class Export:
    """An exported model and all that is known about it.

    Attributes:
        form: what it was written as.
        config: of the run that trained it.
        shape: of a window, (n, ...).
        parity: with PyTorch.
        model: name of the checkpoint file.
        checkpoint_sha256: of that file.
        versions: of everything that had a part in it.
        scout: the network that sees the whole scan, if the checkpoint has one.
    """

    form: Format
    config: Config
    shape: tuple[int, ...]
    parity: Parity
    model: str
    checkpoint_sha256: str
    versions: Mapping[str, str]
    scout: ExportedScout | None = None


def channel_table(config: Config) -> list[dict[str, object]]:
    """Per output channel: what it stands for, the id in masks, the name and the colour (0-255)."""
    labels = config.labels.network_scheme.labels
    background = [{"channel": 0, "id": 0, "name": "background", "rgb": [0, 0, 0]}] if len(labels) > 1 else []
    return [
        *background,
        *(
            {"channel": channel, "id": label.id, "name": label.name, "rgb": list(label.rgb)}
            for channel, label in enumerate(labels, start=len(background))
        ),
    ]


def readme(export: Export) -> str:
    """The text of ``README.md``."""
    windows = _WINDOWS[len(export.shape) - 1]
    output = [_output(export.config)]
    if export.config.labels.by_sequence:
        rows = "\n".join(f"| {row['channel']} | {row['name']} |" for row in channel_table(export.config))
        output = [bones_section(_SOFTMAX, rows), names_section(seen=export.scout is not None)]
    scout = [scout_section(export.scout, export.form)] if export.scout else []
    sections = [_head(export), _grid(export.config), windows(export.config), *scout, *output, _origin(export)]
    return "\n".join(sections)


def _head(export: Export) -> str:
    form, config = export.form, export.config
    files = " and ".join(f"`{name}`" for name in form.files)
    return f"""# A vertebra segmentation model ({config.mode}, labels: {config.labels.scheme})

The network is in {files} ({form.name}), with float32 weights. `labels.json` names its channels,
`export.json` holds the facts of this page for programs. For research only; it is no medical device.

| | name | type | shape |
|---|---|---|---|
| input | `image` | float32, 0 ... 1 | B x {_times(export.shape)} |
| output | `logits` | float32 | B x {_times((config.labels.network_scheme.output_channels, *export.shape[1:]))} |

B may be any number; the other sizes are fixed. Logits that are NaN or infinite mean that the network failed (the
input is not 0 ... 1, or its numbers overflow in the precision chosen): make no mask of them.

In Python, with a NumPy array `image`:

```python
{form.example.strip()}
```
"""


def _grid(config: Config) -> str:
    low, high = config.grid.window_hu
    spacing = " x ".join(f"{value:g}" for value in config.grid.spacing_mm)
    return f"""## From a CT to the network grid

1. Reorder and flip the axes of the scan (Hounsfield units) so that the first runs towards the patient's **right**,
   the second towards **anterior**, the third towards **superior** (RAS+; an oblique scan keeps its own, nearest axes).
2. Resample linearly to {spacing} mm, with the centre of the first voxel where it was.
3. `grey = clip((HU - ({low:g})) / {high - low:g}, 0, 1)`: {low:g} HU and less become 0, {high:g} HU and more
   become 1. Round to float16 and back, as in training.
"""


def _windows(config: Config) -> str:
    size, margin = config.sampling.patch_voxels, config.sampling.margin_voxels
    return f"""## Windows

The network sees windows of {_times(size)} voxels with one channel; their axes run towards right, anterior, superior.

- Surround the volume by a margin of {_times(margin)} voxels of air (grey value 0) on both sides of each axis. If it
  is still smaller than a window, pad it evenly to one, with 0 too.
{_overlap(config, size, "voxels")}
- Cut padding and margin off again.
"""


def _overlap(config: Config, size: Sequence[int], units: str) -> str:
    """How windows lie, and how their logits are averaged."""
    overlap = config.inference.overlap
    steps = [max(1, int(length * (1 - overlap))) for length in size]
    sigma = " x ".join(f"{0.125 * length:g}" for length in size)
    return f"""\
- Windows overlap by {overlap:g}: they begin every {_times(steps)} {units}. The last one of an axis is moved back so
  that it ends with the volume.
- Logits of overlapping windows are averaged with Gaussian weights: the product over the axes of
  `exp(-d^2 / (2 sigma^2))`, at least 0.001, where d is the distance from the middle of the window and sigma is
  {sigma} {units} (an eighth of its size)."""


def _slices(config: Config) -> str:
    slices, count = config.slices, config.slices.neighbours
    title, windows = ("Slices", "slices") if slices.spacing_mm is None else ("Windows", "windows of slices")
    channels = (
        f"Channels are the {count} slices before, the slice itself and the {count} after it, in the order of the "
        "network grid; beyond the ends the last slice is repeated"
        if count
        else "The only channel is the slice itself"
    )
    return f"""## {title}

The network sees {windows} of the network grid in the plane `{slices.plane}` ({_PLANES[slices.plane]}).

- {channels}.
- Rows run along the higher of the two axes of the slice, from its far end **down**; columns along the lower one, from
  its far end **to the right**. So the head (in axial slices: the front) is on top, and the front (in other planes than
  sagittal: the patient's right) is on the left.
{_stretched(config) if slices.spacing_mm is None else _covered(config)}
"""


def _stretched(config: Config) -> str:
    rows, columns = config.slices.size_pixels
    return f"""\
- Every slice is stretched to {rows} rows and {columns} columns, whatever its own size is: linearly, pixel i at
  `(i + 0.5) x old / new - 0.5`, clipped to the edges. Then it is rounded to 8 bit: `round(255 grey) / 255`.
- The logits are stretched back to the slice's own size (bilinear, half-pixel centres), rows and columns turned back."""


def _covered(config: Config) -> str:
    rows, columns = config.slices.size_pixels
    return f"""\
- Slices are not stretched: every one is covered by windows of {rows} rows and {columns} columns. A slice that is
  smaller is padded evenly to one, with 0 (air; of an odd number of voxels the axis gets one more at its end).
- Grey values are rounded to 8 bit: `round(255 grey) / 255`.
{_overlap(config, config.slices.size_pixels, "pixels")}
- Cut the padding off again, and turn rows and columns back."""


_PLANES = {
    "sagittal": "across the first axis, right",
    "coronal": "across the second axis, anterior",
    "axial": "across the third axis, superior",
    "as-stored": "across the network axis nearest to the third axis of the file",
}
_WINDOWS: dict[int, Callable[[Config], str]] = {3: _windows, 2: _slices}
"""By the number of axes of a window."""

_SIGMOID = """\
`probability = 1 / (1 + exp(-logit))`. Resample the probability linearly to the grid of the scan; a voxel is labelled
where it is above 0.5."""
_SOFTMAX = """\
Softmax over the channels gives probabilities. Resample all of them linearly to the grid of the scan; the largest is the
label. (Where eight neighbours on the network grid have the same largest one, so has every voxel between them.)"""


def _output(config: Config) -> str:
    table, clean = channel_table(config), config.inference
    rows = "\n".join(f"| {row['channel']} | {row['name']} | {row['id']} |" for row in table)
    largest = " Of each label only the largest part is kept." if clean.largest_component_only else ""
    return f"""## From logits to a mask

{_SIGMOID if len(table) == 1 else _SOFTMAX}
Parts of a label (joined over faces, edges and corners) below {clean.min_component_ml:g} ml are removed there.{largest}

| channel | name | id in the mask |
|---|---|---|
{rows}
"""


def _origin(export: Export) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(export.versions.items()))
    parity = export.parity
    return f"""## Where it comes from

- Exported from `{export.model}`, SHA-256 `{export.checkpoint_sha256}`.
- Loaded again with its own runtime and compared with PyTorch, in float32, on {parity.windows} windows of a synthetic
  scan (B = {parity.windows}): {parity.figures}. Allowed is {RELATIVE_TOLERANCE:g} x (1 + the largest logit).
  Of the voxels, {parity.decided_otherwise:.4%} get another label.
- Versions: {versions}.
"""


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
