"""The batch whose loss is no number, kept so that somebody can look at it."""

import torch

from verse3d.core.errors import DataError
from verse3d.core.files import output_error, whole_file
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import Place
from verse3d.training.session import Session
from verse3d.training.step_values import StepValues


def keep_bad_batch(session: Session, reading: StepValues) -> str:
    """Write ``bad_batch.pt`` into the run folder: image, label, names of the cases, and where in the run it was.

    A loss is read steps later, when the batch is gone; but samples are a function of seed, epoch and position, so the
    same batch is made once more.

    Returns:
        What to say about it: the file and the cases, or why there is no file.
    """
    # Steps count from 1 over the whole run, epochs from 1, steps within an epoch from 0.
    epoch, step = divmod(reading.step - 1, session.optim.steps_per_epoch)
    size = session.batch_size
    places = [Place(epoch + 1, position) for position in range(step * size, (step + 1) * size)]
    try:
        cases = [session.dataset.source_of(place).case for place in places]
        boxes = [session.dataset[place] for place in places]
        batch = session.augment(PackedBatch.of(boxes).on(session.learner.device))
        content = {
            "image": batch["image"].cpu(),  # (B, n, ...) float32, as the network saw it
            "label": batch["label"].cpu(),  # (B, 1, ...) network ids
            "cases": cases,
            "positions": [place.position for place in places],
            "epoch": epoch + 1,
            "step": reading.step,
            "loss": reading.loss,
            "grad_norm": reading.grad_norm,
            "lr": reading.lr,
        }
        if session.options.ranks.is_first:
            _write(session, content)
    except DataError as error:  # also a full disk: that there was such a batch must be told all the same
        return f"the batch could not be kept: {error.message}"
    return f"its samples are from {', '.join(cases)}; the batch is kept in {session.folder.bad_batch}"


def _write(session: Session, content: dict[str, object]) -> None:
    path = session.folder.bad_batch
    with whole_file(path) as part, part.open("wb") as handle:
        try:
            torch.save(content, handle)
        except RuntimeError as error:  # PyTorch's word for a write that failed half-way
            raise output_error(path, OSError(str(error))) from error
