"""When whole scans are validated, so that validating takes no more of the time than it may."""

from verse3d.core.config import OptimConfig, RuntimeConfig, ValidationConfig
from verse3d.training.session import Standing


def validation_fits(
    standing: Standing, minutes: float, validation: ValidationConfig, optim: OptimConfig, runtime: RuntimeConfig
) -> bool:
    """Whether one more validation, as long as the last one, keeps within ``validation.time_share``.

    Always, where seconds must not decide: in a deterministic run, and where the rate follows the validation.

    Args:
        standing: what validating took so far.
        minutes: that the run took so far, validations included.
        validation, optim, runtime: sections of the config.
    """
    if runtime.deterministic or optim.schedule == "plateau":
        return True
    # share * minutes is what validating may have taken by now; one more adds to both sides.
    once = standing.last_validation_minutes
    return standing.validation_minutes + once <= validation.time_share * (minutes + once)
