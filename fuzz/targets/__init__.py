"""Every door through which untrusted bytes come in; ``fuzz`` says how to add one."""

from fuzz.target import Target
from fuzz.targets.archives import Archives
from fuzz.targets.commands import AbsurdModels, Batches, Predict
from fuzz.targets.foreign import Locks, Manifests, StrayFiles
from fuzz.targets.models import ModelFiles, States
from fuzz.targets.nifti import Nifti
from fuzz.targets.records import Predictions, Surveys
from fuzz.targets.settings import Overrides, Settings
from fuzz.targets.stores import Stores
from fuzz.targets.tables import CentroidFiles, Corrections, History, Index

_ALL: tuple[type[Target], ...] = (
    AbsurdModels, Archives, Batches, CentroidFiles, Corrections, History, Index, Locks, Manifests, ModelFiles, Nifti,
    Overrides, Predict, Predictions, Settings, States, Stores, StrayFiles, Surveys,
)  # fmt: skip
TARGETS: dict[str, type[Target]] = {target.name: target for target in _ALL}
