"""How bones and names follow from exported networks: the parts of the README of a model that names by sequence."""

import numpy as np

from verse3d.inference.export.formats import Format
from verse3d.inference.export.scout import ExportedScout
from verse3d.inference.scout import MARGIN_MM
from verse3d.labelling.bones import COARSE_MM
from verse3d.labelling.instances import JOIN_MM, LEAST_BONE_ML, LEAST_CORE_ML, LEAST_WITHOUT_CORE_ML
from verse3d.labelling.levels import ANOMALIES, STEPS
from verse3d.labelling.priors import PROVENANCE, Priors, shipped_priors
from verse3d.labelling.weighing import WEIGHT, priors_of_bones
from verse3d.model.parts import NEAR_MM
from verse3d.model.scout import CHANNELS, SCOUT_MM


def scout_section(scout: ExportedScout, form: Format) -> str:
    """What the network that sees the whole scan wants and gives."""
    files = " and ".join(f"`{name}`" for name in scout.files)
    sizes = " x ".join(f"{scout.factor} {axis}" for axis in "ijk")
    trusted = (
        f"It missed no vertebra of any validation case, so verse3d looks for bone only {MARGIN_MM:g} mm around that."
        if scout.usable
        else "It was not found to miss nothing of validation cases, so verse3d crops no scan by it."
    )
    example = form.example.strip().replace('"model.', '"scout.')
    return f"""## The scout: where the spine and its levels are

A second, tiny network is in {files}. It sees the whole field of view at {SCOUT_MM:g} mm.

| | name | type | shape |
|---|---|---|---|
| input | `image` | float32, 0 ... 1 | B x 1 x {sizes} |
| output | `logits` | float32 | B x {CHANNELS} x {sizes} |

1. Resample the grey values of the network grid linearly to {SCOUT_MM:g} mm, with the centre of the first voxel where it
   was. Add air (0) at the far face of each axis up to a multiple of {scout.factor} voxels; cut it off the logits again.
   verse3d shows it scans of more than 96 slices along the third axis (38 cm) in parts that overlap by 32.
2. Softmax over the channels: 0 is background, 1 to {CHANNELS - 1} are C1 ... C7, T1 ... T13, L1 ... L6. Spine is where
   background has less than one half.
   {trusted}

```python
{example}
```
"""


def bones_section(softmax: str, channels: str) -> str:
    """From the logits of the fine network to single bones. ``channels``: rows of a table of number and name."""
    return f"""## From logits to bones

{softmax}

| channel | name |
|---|---|
{channels}

The network finds bones and no names. `core` is bone with no other vertebra within {NEAR_MM:g} mm, `vertebra` all other
bone.

1. Connected parts of `core` (over faces, on a grid of about {COARSE_MM:g} mm) of {LEAST_CORE_ML:g} ml or more are the
   seeds. Every voxel of either label goes to the seed that is nearest on a way through these labels. (verse3d also
   parts seeds that look like several vertebrae: `verse3d.labelling.parting`.)
2. What no seed reaches is a bone of its own from {LEAST_WITHOUT_CORE_ML:g} ml on; less joins a bone within
   {JOIN_MM:g} mm, or is left out. So are bones below {LEAST_BONE_ML:g} ml.
"""


def names_section(*, seen: bool) -> str:
    """The decoder, in words and numbers. ``seen``: whether the export holds a network that sees levels."""
    priors = priors_of_bones(shipped_priors())
    looks = _SEEN if seen else _UNSEEN
    anomalies = ", ".join(f"{score:.1f} for {name}" for name, score in zip(ANOMALIES, priors.anomalies, strict=True))
    return f"""## From bones to names

Names are given to all bones at once, by the most probable row of names. Of verse3d only NumPy and SciPy are needed for
it: `verse3d.labelling.vertebrae.name_bones`.

{looks}
2. Bones in order from head to feet, along the curve through the middles of their bodies (of what is thicker than 0.6 of
   the thickest part). A reading takes each for a vertebra with a name, or passes over it. Names follow one another as
   in the table below; up to three in a row may be missed.
3. The score of a reading is the sum of
   - {WEIGHT:g} log p(level) (0 for the likeliest level of the bone) + log p(real), for each vertebra;
   - log(1 - p(real)) {priors.skipped[0]:+g} p(real), for each bone that is passed over;
   - {-3 * priors.step_weight[0]:.2g} ln(1 + z^2 / 5), z = (ln d - ln expected - s) / {priors.step_sd[0]:.3f}, for each
     step of d mm; s is the log of the patient's size, one for all steps, -0.3 ... 0.3 with a spread of 0.1, summed out;
   - {_listed(priors.missed[1:])} for one, two, three vertebrae missed in a step;
   - {anomalies}.

   verse3d adds what can be counted in the scan: ribs beside a bone, the widths of transverse processes, and whether the
   scan goes on beyond the first and the last vertebra (`verse3d.labelling.weighing`).
4. Probabilities of readings are proportional to exp(score). If the best one has less than {priors.certain[0]:.3f},
   the names are ambiguous: show the other readings, too.

Expected distances between the middles of neighbouring bodies, mm:

{_distances(priors)}

{PROVENANCE}
"""


_SEEN = """\
1. p(level) of a bone: the mean of the scout's probabilities over its voxels, as shares of all levels and at least 0.004
   each. T13 gets the mean of T12 and L1, L6 at least what L5 has. p(real), that it is a vertebra at all: the upper
   quarter of 1 - p(background) over its voxels, 0.03 to 0.998."""
_UNSEEN = """\
1. This model holds no network that sees the whole scan, so p(level) is the same for all, and p(real) is 0.97: bones can
   be counted, but not named for certain."""


def _listed(scores: np.ndarray) -> str:
    return ", ".join(f"{score:g}" for score in scores)


def _distances(priors: Priors) -> str:
    steps = [
        f"{upper}-{lower} {distance:.1f}"
        for (upper, lower), distance in zip(STEPS, np.exp(priors.log_step_mm), strict=True)
    ]
    return ",\n".join(", ".join(steps[first : first + 8]) for first in range(0, len(steps), 8)) + "."
