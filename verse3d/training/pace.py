"""When whole scans are validated, so that validating takes no more of the time than it may."""

from verse3d.core.config import Config
from verse3d.training.session import Standing


def validation_fits(standing: Standing, config: Config, minutes: float) -> bool:
    """Whether one more validation, as long as the last one, keeps within ``validation.time_share``.

    Always, where seconds must not decide: in a deterministic run, and where the rate follows the validation.

    Args:
        standing: what validating took so far.
        config: of the run.
        minutes: that the run took so far, validations included.
    """
    if config.runtime.deterministic or config.optim.schedule == "plateau":
        return True
    # share * minutes is what validating may have taken by now; one more adds to both sides.
    once = standing.last_validation_minutes
    return standing.validation_minutes + once <= config.validation.time_share * (minutes + once)
