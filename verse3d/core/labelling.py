"""Settings of what is told apart, and where names come from."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from verse3d.core.labels import PARTS, LabelScheme, SchemeName, label_scheme
from verse3d.core.section import Section


class LabelsConfig(Section):
    """What masks tell apart: any vertebra (``binary``) or the 26 levels (``vertebrae``), and where names come from."""

    scheme: SchemeName = "binary"
    naming: Literal["direct", "sequence"] = "direct"
    """``direct``: the network has a channel for every level. ``sequence``: it finds bones without names, and the whole
    spine is named at once, from what a second network sees of it."""

    cut_vertebrae: Literal["background", "ignore"] = "background"
    """What bone teaches that may be a vertebra which the scan cuts, and which VerSe therefore leaves unlabelled:
    ``background``, that it is none; ``ignore``, nothing. Where vertebrae are named by their sequence cut ones are found
    and marked as partial, which is the reason to ignore them; nothing marks them elsewhere."""

    automatic_borders: Literal["learn", "ignore"] = "learn"
    """What the border of a vertebra teaches in a mask that a program made (``automatic`` in the index): where it is
    (``learn``), or nothing (``ignore``), because programs differ from experts there first. Where vertebrae are named by
    their sequence it has to be learnt: borders between them are what parts one bone from the next."""

    @field_validator("naming")
    @classmethod
    def _there_are_names(cls, naming: str, info: ValidationInfo) -> str:
        if naming == "sequence" and info.data.get("scheme") == "binary":
            raise ValueError("sequence names vertebrae, which the scheme binary does not; set labels.scheme: vertebrae")
        return naming

    @field_validator("automatic_borders")
    @classmethod
    def _bones_have_borders(cls, borders: str, info: ValidationInfo) -> str:
        if borders == "ignore" and info.data.get("naming") == "sequence":
            raise ValueError(
                "ignore would leave nothing that parts one bone from the next; naming: sequence needs learn"
            )
        return borders

    @property
    def by_sequence(self) -> bool:
        """Whether names are given to the whole spine at once."""
        return self.naming == "sequence"

    @property
    def ignores_cut(self) -> bool:
        """Whether bone that may be a cut vertebra teaches nothing."""
        return self.cut_vertebrae == "ignore"

    @property
    def ignores_automatic_borders(self) -> bool:
        """Whether borders in masks that a program made teach nothing."""
        return self.automatic_borders == "ignore"

    @property
    def network_scheme(self) -> LabelScheme:
        """What the network tells apart; ``scheme`` is what masks do."""
        return PARTS if self.by_sequence else label_scheme(self.scheme)

    @property
    def trained_on(self) -> Literal["binary", "vertebrae", "bones"]:
        """The name of the scheme that patches are cut in. The loss makes ``PARTS`` of ``BONES``."""
        return "bones" if self.by_sequence else self.scheme
